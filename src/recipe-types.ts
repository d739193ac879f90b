/** How σ is drawn while training. `lognorm` is a logit-normal with mean 0 and deviation 1, whatever the other keys say. */
export type TimestepSampling = 'uniform' | 'logit_normal' | 'lognorm' | 'mode' | 'mix' | 'beta'

/**
 * Type of activations, and of frozen weights. Sums, norms, the residual stream, the loss, adapters and optimizers are
 * float32 in each.
 */
export type ComputeDtype = 'float32' | 'bfloat16'

/**
 * How the weights of a frozen base are made smaller. `int8`: the blocks' weights become bytes with a scale for each
 * output, and activations are rounded to bytes, token by token, when they meet them.
 */
export type Quantization = 'none' | 'int8'

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
}

/** Images, and their captions: a `.txt` of the same name beside each, or a table. */
export interface DataRecipe {
  /**
   * Folder, or folders, of training images. A `metadata.jsonl` or `metadata.csv` in one, with columns `file_name` and
   * `text`, captions the images that it names; such a file may itself stand here.
   */
  train: string | string[]
  /** Folder, or folders, of images that are never trained on, for the evaluation loss. Default: none. */
  heldOut?: string | string[]
  /** Instead of `heldOut`: how many images of `train` are set aside. */
  heldOutCount?: number
  /** Side of the square each image is resized and cropped to, in pixels; a multiple of 16, at most 4096. Default 512. */
  resolution?: number
  /** Where latents and text embeddings are cached. Default: `.cache` beside the run folder. */
  cacheDir?: string
  /** What to do with an image or caption that cannot be read. Default `fail`. */
  onBadFile?: 'fail' | 'skip'
  /** The word for what is taught: takes the place of `[trigger]` in captions and prompts, precedes captions without it. */
  triggerWord?: string
  /** Caption of images that have none. Default: such an image is a bad file. */
  defaultCaption?: string
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
   * (10⁹ bytes), weights and optimizer included, and recompute the others.
   */
  memoryBudget?: number
}

/** When to save everything that an exact resume needs. */
export interface CheckpointRecipe {
  /** Every so many steps, besides the end. Default 250. */
  everySteps?: number
  /** How many of the latest checkpoints are kept. Default 2. */
  keep?: number
}

/** Evaluation and sample images. */
export interface ValidationRecipe {
  /** Prompts of the sample images made before and after training. Default: none. */
  prompts?: string[]
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
