/** How σ is drawn while training. `lognorm` is a logit-normal with mean 0 and deviation 1, whatever the other keys say. */
export type TimestepSampling = 'uniform' | 'logit_normal' | 'lognorm' | 'mode' | 'mix' | 'beta'

/**
 * Type of activations, and of frozen weights. Sums, norms, the residual stream, the loss, adapters and optimizers are
 * float32 in each.
 */
export type ComputeDtype = 'float32' | 'bfloat16'

/**
 * How the weights of a frozen base are made smaller. `int8`: the blocks' weights become bytes with a scale for each
 * output, and activations are rounded to bytes, token by token, when they meet them. `nf4`: half bytes with a scale for
 * each 64 weights (QLoRA's 4-bit NormalFloat), a quarter of bfloat16's memory; activations stay as they are.
 */
export type Quantization = 'none' | 'int8' | 'nf4'

/** Which weights of a frozen base rest in the host's memory. */
export type Offload = 'auto' | 'none' | 'blocks'

/** The model to start from. */
export interface ModelRecipe {
  /**
   * Folder of a FLUX.2 pipeline in diffusers layout (transformer, vae, text_encoder, tokenizer, scheduler), or, where there is
   * no such folder, its id on a hub: `owner/name`, `@revision` behind it. What is needed of a hub's model is fetched.
   */
  path: string
  /** Branch, tag or commit of a hub's model. The run's own recipe has the commit. Default `main`. */
  revision?: string
  /**
   * Another transformer for that pipeline: a folder, or a `.safetensors` or `.gguf` file, in diffusers' layout, Black Forest
   * Labs' or ComfyUI's. A file may be a hub's: `owner/name/file.safetensors`, `@revision` behind it.
   */
  transformer?: string
  /** Train a step-distilled checkpoint all the same; the result is usually grey and generic. Default false. */
  allowDistilled?: boolean
  /** Type that the transformer computes in, and of its weights; full fine-tuning keeps them float32. Default `float32`. */
  dtype?: ComputeDtype
  /** What the weights of a LoRA's base are kept in instead. Default `none`. */
  quantization?: Quantization
  /**
   * Whether the weights of blocks rest in the host's memory and come to an NVIDIA card for each product: `auto` as many as
   * the card has no room for, `none`, or all `blocks`. Weights that are trained stay there. Means nothing on the CPU. Default
   * `auto`.
   */
  offload?: Offload
}

/**
 * A folder or a table of images.
 *
 * In a folder, captions are in a `.txt` of the image's name, or in its `metadata.jsonl` or `metadata.csv` with the columns
 * `file_name` and `text`; `mask` and `references` may stand there too, and in JSON lines `text` and `references` may be
 * lists. Such a table may itself be the source; its files are relative to it.
 */
export interface DataSource {
  /** The folder, or a table (`.jsonl`, `.csv`). */
  path: string
  /** Folder of masks: images of the same name and proportions, white where is trained, black where not. */
  masks?: string
  /**
   * Folder of reference images of the same name, which the model sees beside the caption (edit training); a list for
   * several references, in order. An image may lack some of them, not all.
   */
  references?: string | string[]
  /** How often each image is seen while images of other sources are seen once. Default 1; need not be whole. */
  repeats?: number
  /** Instead of `repeats`, for every source or none: share of all samples, against the weights of the other sources. */
  weight?: number
}

/** Images, and what belongs to them: captions, masks, reference images. */
export interface DataRecipe {
  /** Training images: a folder, a table, or several of them. */
  train: string | DataSource | (string | DataSource)[]
  /** Images that are never trained on, for the evaluation loss. Default: none. */
  heldOut?: string | DataSource | (string | DataSource)[]
  /** Instead of `heldOut`: how many images of `train` are set aside. */
  heldOutCount?: number
  /**
   * Side of the square that gives the number of pixels, in pixels; a multiple of 16, at most 4096. Several: each image is
   * trained at each that it has the pixels for, and at the smallest in any case. Default 512.
   */
  resolution?: number | number[]
  /**
   * Whether images keep about their proportions, with sides in multiples of 16; what sticks out is cut off. If not, they
   * are cut to squares. Default true.
   */
  buckets?: boolean
  /** Where latents and text embeddings are cached. Default: `.cache` beside the run folder. */
  cacheDir?: string
  /** What to do with an image or caption that cannot be read. Default `fail`. */
  onBadFile?: 'fail' | 'skip'
  /** The word for what is taught: takes the place of `[trigger]` in captions and prompts, precedes captions without it. */
  triggerWord?: string
  /** Caption of images that have none. Default: such an image is a bad file. */
  defaultCaption?: string
  /** Each line of a `.txt` is a caption of its own; one is drawn each time the image is seen. Default false. */
  captionPerLine?: boolean
  /** Text tokens per caption, padded or cut to this length. Default: what the model's pipeline uses. */
  textTokens?: number
}

/** Low-rank adaptation; for `mode: lora`. */
export interface LoraRecipe {
  /** Default 16. */
  rank?: number
  /** The update is scaled by alpha / rank. Default 16. */
  alpha?: number
  /** Names of linear modules, or patterns of them. Default: every linear of both block kinds except modulation and norms. */
  targets?: string[]
  /**
   * A LoRA to go on from: a run folder, or a LoRA's file or folder in diffusers' format, ComfyUI's or kohya's. Rank, alpha
   * and targets are then its own.
   */
  from?: string
}

/** The flow-matching loss. */
export interface FlowMatchingRecipe {
  /** Default `logit_normal`. */
  timestepSampling?: TimestepSampling
  /** Mean of the logit-normal. Default 0. */
  logitMean?: number
  /** Standard deviation of the logit-normal. Default 1. */
  logitStd?: number
  /** First parameter of the Beta distribution under `beta`. Default 2.5. */
  betaAlpha?: number
  /** Second parameter of the Beta distribution under `beta`. Default 1.5. */
  betaBeta?: number
  /**
   * Shift of σ: a number, or by the image's tokens: `dynamic` as in FLUX.2's own training, `linear` and `sqrt` as NeMo
   * Automodel's `time_shift`. Default `dynamic`.
   */
  flowShift?: number | 'dynamic' | 'linear' | 'sqrt'
  /** σ is clamped to at least this. Default 0. */
  sigmaMin?: number
  /** σ is clamped to at most this. Default 1. */
  sigmaMax?: number
  /** With this probability a whole batch is drawn uniformly instead. Default 0. */
  mixUniformRatio?: number
  /** False: σ uniform in 0..1 without shift. Default true. */
  useSigmaNoise?: boolean
  /** Weight of each sample by its σ. Default `none`. */
  lossWeighting?: 'none' | 'linear' | 'bsmntw'
  /** Guidance that a guidance-embedded model (dev) is told while training. Default 1. */
  guidanceScale?: number
  /** Probability that a sample's caption is dropped. Default 0.05. */
  captionDropout?: number
  /** What stands in for a dropped caption. Default `empty_prompt`: its embedding. */
  captionDropoutMode?: 'empty_prompt' | 'zero'
  /** A loss above this, or not finite, ends the run with `LOSS_DIVERGED`. Default 100. */
  maxLoss?: number
}

/** The optimizer. */
export interface OptimizerRecipe {
  /** Default `adamw`: Adam with decoupled weight decay. */
  type?: 'adamw'
  /** Learning rate after warm-up. Default 1e-4. */
  lr?: number
  /** Decay of the first moment. Default 0.9. */
  beta1?: number
  /** Decay of the second moment. Default 0.999. */
  beta2?: number
  /** Added to the root of the second moment. Default 1e-8. */
  eps?: number
  /** Decoupled weight decay. Default 0.01. */
  weightDecay?: number
}

/** The learning rate over the run. */
export interface LrScheduleRecipe {
  /** Its course after warm-up: half a cosine or a line down to `minLrRatio`, or no change. Default `cosine`. */
  type?: 'cosine' | 'constant' | 'linear'
  /** Steps of linear warm-up from zero; fewer than `train.steps`. Default 0. */
  warmupSteps?: number
  /** Where the schedule ends, as a share of `optimizer.lr`. Default 0. */
  minLrRatio?: number
}

/** Steps and batches. */
export interface TrainRecipe {
  /** Optimizer steps. */
  steps: number
  /** Samples of one forward pass. Default 1. */
  batchSize?: number
  /** Forward passes of one optimizer step. Default 1. */
  gradientAccumulation?: number
  /** Gradients are clipped to this global norm; 0 switches clipping off. Default 1. */
  maxGradNorm?: number
  /** All randomness is a function of this, the step and the sample. Default 0. */
  seed?: number
  /** Recompute each block in the backward pass instead of keeping its activations. Default true. */
  activationCheckpointing?: boolean
  /**
   * Instead of all or none: keep the activations of as many blocks as fit while tensors take at most this many gigabytes
   * (10⁹ bytes), weights and optimizer included, and recompute the others. Of what is kept, what is cheap is recomputed too.
   */
  memoryBudget?: number
  /** Begin even where the run is planned to take more memory than there is. Default false: it is refused. */
  allowOverMemory?: boolean
}

/** When to save everything that an exact resume needs. */
export interface CheckpointRecipe {
  /** Every so many steps, besides the end. Default 250. */
  everySteps?: number
  /** How many of the latest checkpoints are kept. Default 2. */
  keep?: number
}

/** What a sample image shows. */
export interface ValidationPrompt {
  /** The text; `[trigger]` is replaced as in captions. */
  prompt: string
  /** Images that the model sees beside it, in order (edit training). */
  references?: string | string[]
}

/** Evaluation and sample images. */
export interface ValidationRecipe {
  /** Prompts of the sample images made before and after training. Default: none. */
  prompts?: (string | ValidationPrompt)[]
  /** Evaluate every so many steps, besides before and after. Default: only then. */
  everySteps?: number
  /** The σ at which the held-out loss is taken. Default 0.1, 0.3, 0.5, 0.7, 0.9. */
  sigmas?: number[]
  /** Euler steps of a sample image. Default 28. */
  sampleSteps?: number
  /** Classifier-free guidance of a sample image; 1 switches it off. Default 4. */
  sampleGuidance?: number
  /** Seed of the sample images. Default 0. */
  sampleSeed?: number
}

/** Where the run goes. */
export interface OutputRecipe {
  /** The run folder; where it holds something already, a numbered one beside it. Default `runs/run`. */
  dir?: string
  /** Type of the transformer's weights after full fine-tuning; a LoRA is always float32. Default `float32`. */
  weightsDtype?: 'float32' | 'bfloat16'
}

/** All of a fine-tuning run. Unknown keys are refused with the nearest known one. */
export interface Recipe {
  /** What to start from. */
  model: ModelRecipe
  /** Images and captions. */
  data: DataRecipe
  /** Train low-rank adapters, or every weight of the transformer. Default `lora`. */
  mode?: 'lora' | 'full'
  /** The adapters; for `mode: lora`. */
  lora?: LoraRecipe
  /** Noise levels and the loss. */
  flowMatching?: FlowMatchingRecipe
  /** What turns gradients into updates. */
  optimizer?: OptimizerRecipe
  /** The learning rate over the run. */
  lrSchedule?: LrScheduleRecipe
  /** Steps and batches. */
  train: TrainRecipe
  /** When to save. */
  checkpoint?: CheckpointRecipe
  /** Evaluation and sample images. */
  validation?: ValidationRecipe
  /** Where the run goes. */
  output?: OutputRecipe
}
