import type { ComputeDtype, FlowMatchingRecipe, Quantization, Recipe } from './recipe-types'

export type * from './recipe-types'

/** The run began, or went on after a resume. */
export interface StartedEvent {
  /** Discriminates the events. */
  type: 'started'
  /** The run folder, absolute. */
  runDir: string
  /** Optimizer steps of the whole run, those before a resume included. */
  totalSteps: number
  /** Numbers that train. */
  trainableParameters: number
}

/** Work other than training steps: caching, verifying, sampling. */
export interface ProgressEvent {
  /** Discriminates the events. */
  type: 'progress'
  /** What is going on, for people. */
  stage: string
  /** How much of it is done. */
  done: number
  /** Of how much. */
  total: number
  /** What is counted, where it is not pieces of work. */
  unit?: 'bytes'
}

/** One optimizer step. */
export interface StepEvent {
  /** Discriminates the events. */
  type: 'step'
  /** Counted from 1. */
  step: number
  /** Optimizer steps of the whole run. */
  totalSteps: number
  /** Weighted loss, mean over the step's samples. */
  loss: number
  /** Global norm of the gradients before clipping. */
  gradNorm: number
  /** Learning rate of this step. */
  lr: number
  /** Wall-clock seconds that it took. */
  secondsPerStep: number
  /** Mean σ of its samples, 0..1. */
  sigmaMean: number
}

/** Held-out loss at fixed σ and fixed noise. */
export interface EvaluationEvent {
  /** Discriminates the events. */
  type: 'evaluation'
  /** 0 is before training. */
  step: number
  /** Mean squared error of the velocity, over the noise levels. */
  loss: number
  /** By noise level. */
  perSigma: SigmaLoss[]
}

/** A loss at one noise level. */
export interface SigmaLoss {
  /** The noise level, 0..1. */
  sigma: number
  /** Mean squared error of the velocity. */
  loss: number
}

/** A sample image was written. */
export interface SampleEvent {
  /** Discriminates the events. */
  type: 'sample'
  /** 0 is before training. */
  step: number
  /** The PNG, absolute. */
  path: string
  /** What it shows. */
  prompt: string
}

/** A checkpoint was written. */
export interface CheckpointEvent {
  /** Discriminates the events. */
  type: 'checkpoint'
  /** Optimizer steps behind it. */
  step: number
  /** Its folder, absolute. */
  path: string
}

/** Something the user should know that does not stop the run. */
export interface WarningEvent {
  /** Discriminates the events. */
  type: 'warning'
  /** Stable, as the codes of errors. */
  code: string
  /** In words. */
  message: string
}

/** The run ended well. */
export interface FinishedEvent extends TrainSummary {
  /** Discriminates the events. */
  type: 'finished'
}

/** What a run tells while it works. */
export type RunEvent =
  | StartedEvent
  | ProgressEvent
  | StepEvent
  | EvaluationEvent
  | SampleEvent
  | CheckpointEvent
  | WarningEvent
  | FinishedEvent

/** What a training run leaves. Paths are absolute. */
export interface TrainSummary {
  /** The run folder. */
  runDir: string
  /** Optimizer steps of the whole run. */
  steps: number
  /** Folder of the LoRA in diffusers/PEFT form, or of the transformer after full fine-tuning. */
  weights: string
  /** Held-out loss before and after; absent without held-out images. */
  evaluationBefore?: number
  /** Held-out loss after training. */
  evaluationAfter?: number
  /** Sample images before and after training, in the order of `validation.prompts`. */
  samplesBefore?: string[]
  /** Sample images after training, in the order of `validation.prompts`. */
  samplesAfter?: string[]
  /** Plot of the losses, SVG. */
  plot?: string
  /** Report of the run, HTML. */
  report?: string
  /** Wall-clock seconds of training steps. */
  trainingSeconds?: number
}

/** Images of one size. */
export interface BucketSummary {
  /** Pixels. */
  width: number
  /** Pixels. */
  height: number
  /** How many images are trained at this size. */
  images: number
}

/** What `prepare` cached. */
export interface PrepareSummary {
  /** Folder of the cache. */
  cacheDir: string
  /** Held-out ones included. */
  images: number
  /** Sizes that they are trained at, smallest first. */
  buckets: BucketSummary[]
  /** Distinct captions and prompts, the empty one included. */
  captions: number
  /** Images with a mask. */
  masks: number
  /** Reference images, counted for each image that they belong to. */
  references: number
  /** Files left out because they could not be read (`data.onBadFile: skip`). */
  skipped: string[]
}

/**
 * Whose names a LoRA's file has: `diffusers` and PEFT; `comfyui`, which AI Toolkit writes too; `kohya`'s sd-scripts and
 * musubi-tuner.
 */
export type LoraFormat = 'diffusers' | 'comfyui' | 'kohya'

/** Which LoRA to write in which format. */
export interface ExportOptions {
  /** A run folder, or a LoRA in any {@link LoraFormat}: its file or its folder. */
  lora: string
  /** Whose names to write. */
  format: LoraFormat
  /** The `.safetensors` file; must not exist. */
  out: string
}

/** The file that was written. */
export interface ExportSummary {
  /** The file. */
  path: string
  /** Its names. */
  format: LoraFormat
  /** Layers with an adapter. */
  adapters: number
  /**
   * Largest difference, over all layers, of what the file adds to a weight from what the LoRA adds, relative to the
   * largest element of that.
   */
  maxRelativeDifference: number
}

/** Which LoRA to add to which base. */
export interface MergeOptions {
  /** Folder of a FLUX.2 pipeline in diffusers layout, or its id on a hub: `owner/name`, `@revision` behind it. */
  model: string
  /**
   * Another transformer for that pipeline: a folder, or a `.safetensors` or `.gguf` file in any layout that is known, which
   * may be a hub's: `owner/name/file.safetensors`.
   */
  transformer?: string
  /** A run folder, or a LoRA in any {@link LoraFormat}: its file or its folder. */
  lora: string
  /** Type of the weights that are written; sums are float32. Default `float32`. */
  weightsDtype?: ComputeDtype
  /** The folder to make: a transformer in diffusers layout. */
  out: string
}

/** The transformer that was written. */
export interface MergeSummary {
  /** The folder. */
  path: string
  /** Layers that an adapter was added to. */
  merged: number
  /** Weights in all. */
  weights: number
}

/** What `download` brought. */
export interface DownloadSummary {
  /** The model's folder in the cache, or the file. */
  path: string
  /** The commit. */
  revision: string
  /** Files that are needed. */
  files: number
  /** Bytes that came from the hub, the others being here already. */
  downloadedBytes: number
}

/** What image to make. */
export interface SampleOptions {
  /** Folder of a FLUX.2 pipeline in diffusers layout, or its id on a hub: `owner/name`, `@revision` behind it. */
  model: string
  /**
   * Another transformer for that pipeline: a folder, or a `.safetensors` or `.gguf` file in any layout that is known, which
   * may be a hub's: `owner/name/file.safetensors`.
   */
  transformer?: string
  /** A LoRA in diffusers/PEFT form: its file or its folder. */
  lora?: string
  /** What it shows. */
  prompt: string
  /** Default: the empty prompt. */
  negativePrompt?: string
  /**
   * Images to make it from, in the order in which the prompt speaks of them. Each is taken in its own size, its middle cut to
   * multiples of 16 pixels; larger ones are scaled down to about 1024² pixels.
   */
  references?: string[]
  /** Pixels, multiples of 16. */
  width: number
  /** Pixels, a multiple of 16. */
  height: number
  /** Euler steps. Default 28, for distilled models 4. */
  steps?: number
  /** Classifier-free guidance; 1 switches it off. Default 4, for distilled models 1. */
  guidanceScale?: number
  /** Seed of the initial noise. Default 0. */
  seed?: number
  /** Type that the transformer computes in, and of its weights. Default `float32`. */
  dtype?: ComputeDtype
  /** What the transformer's weights are kept in instead. Default `none`. */
  quantization?: Quantization
  /** The PNG to write; must not exist. */
  out: string
  /** Also write embeddings, initial latents and the image as safetensors here; must not exist. */
  dump?: string
}

/** What `sample` wrote. */
export interface SampleSummary {
  /** The PNG. */
  path: string
  /** The tensors, where they were asked for. */
  dump?: string
  /** Wall-clock, loading included. */
  seconds: number
}

/** Held-out loss at fixed σ. */
export interface EvaluateSummary {
  /** Mean over the noise levels. */
  loss: number
  /** By noise level. */
  perSigma: SigmaLoss[]
  /** Held-out images. */
  images: number
}

/** One tensor of a parity case. */
export interface TensorCheck {
  /** Its name in the case. */
  name: string
  /** Worst error, as a share of the largest expected value (of images: absolute); the largest double when it is not finite. */
  error: number
  /** The largest error that is allowed. */
  bound: number
  /** Whether the error is within the bound. */
  ok: boolean
}

/** One parity case. */
export interface CaseReport {
  /** Name of its folder. */
  name: string
  /** `adapter`, `schedule`, `train`, `vae`, `text`, `sample` or `pipeline`; what a case says it is, or `unknown`. */
  kind: string
  /** Whether every tensor is within its bound. */
  ok: boolean
  /** What was compared. */
  tensors: TensorCheck[]
  /** Why the case could not be computed at all, then with no tensors. */
  message?: string
}

/** All parity cases. */
export interface VerifyReport {
  /** Whether every case is. */
  ok: boolean
  /** By name. */
  cases: CaseReport[]
}

/** What `inspect` found, by `kind`. */
export type Inspection = ModelInspection | RunInspection | TensorsInspection | TransformerInspection

/** A model folder in diffusers layout. */
export interface ModelInspection {
  /** Discriminates the inspections. */
  kind: 'model'
  /** The folder. */
  path: string
  /** Of diffusers, as `Flux2KleinPipeline`. */
  class: string
  /** Whether it is step-distilled. */
  distilled: boolean
  /** Whether it has a guidance embedding. */
  guidance: boolean
  /** Double-stream blocks. */
  doubleBlocks: number
  /** Single-stream blocks. */
  singleBlocks: number
  /** Width of the transformer. */
  dim: number
  /** Attention heads. */
  heads: number
  /** Width of the text embeddings. */
  jointAttentionDim: number
  /** Its weights. */
  transformer: ComponentSize
  /** Its weights. */
  vae: ComponentSize
  /** Its weights. */
  textEncoder: ComponentSize
  /** Tokens a prompt is padded or cut to. */
  textTokens: number
}

/** Weights of a part of a model. */
export interface ComponentSize {
  /** How many tensors. */
  tensors: number
  /** How many numbers. */
  parameters: number
}

/** A file or folder with a transformer only, in diffusers' layout, Black Forest Labs', ComfyUI's or GGUF. */
export interface TransformerInspection {
  /** Discriminates the inspections. */
  kind: 'transformer'
  /** The file or folder. */
  path: string
  /** Whether it is told the guidance scale (dev). */
  guidance: boolean
  /** Double-stream blocks. */
  doubleBlocks: number
  /** Single-stream blocks. */
  singleBlocks: number
  /** Its width. */
  dim: number
  /** Attention heads. */
  heads: number
  /** Width of the text embeddings. */
  jointAttentionDim: number
  /** How many numbers. */
  parameters: number
  /** The header's `__metadata__`; null of a folder and of GGUF. */
  metadata: Record<string, string> | null
}

/** A run folder. */
export interface RunInspection {
  /** Discriminates the inspections. */
  kind: 'run'
  /** The folder. */
  path: string
  /** Folder of the model it started from, or its id on a hub. */
  model: string
  /** What it trains. */
  mode: 'lora' | 'full'
  /** Optimizer steps of the whole run. */
  steps: number
  /** The last step that was taken; null before the first. */
  lastStep: StepLoss | null
  /** Steps of the checkpoints that are there and whole. */
  checkpoints: number[]
  /** How it ended; null while it has not. */
  finished: FinishedEvent | null
}

/** A loss and its step. */
export interface StepLoss {
  /** Counted from 1. */
  step: number
  /** Weighted loss, mean over the step's samples. */
  loss: number
}

/** A tensor in a file. */
export interface InspectedTensor {
  /** Its key. */
  name: string
  /** Extents, outermost first. */
  shape: number[]
}

/** A safetensors file, a folder of them, or a LoRA. */
export interface TensorsInspection {
  /** Discriminates the inspections. */
  kind: 'lora' | 'safetensors'
  /** The file or folder. */
  path: string
  /** How many numbers. */
  parameters: number
  /** Rank of a LoRA; null of anything else. */
  rank: number | null
  /** The header's `__metadata__`; null of a folder. */
  metadata: Record<string, string> | null
  /** By name. */
  tensors: InspectedTensor[]
}

/** A recipe in numbers. */
export interface Explanation {
  /** How σ is drawn. */
  timestepSampling: NonNullable<FlowMatchingRecipe['timestepSampling']>
  /** Whether the strategy and the shift apply. */
  useSigmaNoise: boolean
  /** How σ is shifted. */
  flowShift: NonNullable<FlowMatchingRecipe['flowShift']>
  /** Distribution of σ for each size of images, as training draws it. */
  buckets: SigmaBucket[]
  /** The shift at the recipe's resolution and at others. */
  shifts: ResolutionShift[]
  /** Weight of a sample by its σ. */
  lossWeighting: NonNullable<FlowMatchingRecipe['lossWeighting']>
  /** Pairs of σ and the weight of a sample. */
  weights: Array<[sigma: number, weight: number]>
  /** Guidance that the model is told; null when it has no guidance embedding. */
  guidance: number | null
  /** Probability that a caption is dropped. */
  captionDropout: number
  /** What stands in for a dropped caption. */
  captionDropoutMode: NonNullable<FlowMatchingRecipe['captionDropoutMode']>
  /** What trains: adapters, or everything. */
  mode: NonNullable<Recipe['mode']>
  /** What trains, blocks taken together. */
  modules: ModuleGroup[]
  /** Numbers that train. */
  trainableParameters: number
  /** Of the transformer, without adapters. */
  totalParameters: number
  /** Optimizer steps. */
  steps: number
  /** Samples of one optimizer step. */
  samplesPerStep: number
  /** Training images; null when their folder cannot be read. */
  images: number | null
  /** Picture of the noise levels and the weighting. */
  svg: string
}

/** Noise levels of images of one size. */
export interface SigmaBucket {
  /** Pixels. */
  width: number
  /** Pixels. */
  height: number
  /** Image tokens. */
  tokens: number
  /** How far σ is shifted: s of s/(s + 1/u − 1); null where σ is drawn without a shift. */
  shift: number | null
  /** Density over bins of equal width in 0..1; its mean is 1. */
  density: number[]
  /** Mean σ. */
  mean: number
  /** σ below which a tenth, a half and nine tenths of the draws lie. */
  quantiles: [number, number, number]
}

/** The shift at a resolution. */
export interface ResolutionShift {
  /** Side of a square, in pixels. */
  resolution: number
  /** Image tokens. */
  tokens: number
  /** Where the shift is e^μ. */
  mu: number | null
  /** How far σ is shifted: s of s/(s + 1/u − 1). */
  shift: number
}

/** Modules of the same name in several blocks. */
export interface ModuleGroup {
  /** With `*` for the number of the block. */
  name: string
  /** How many there are. */
  count: number
  /** Of the base weight; `[out, in]` for linear layers. */
  shape: number[]
  /** Numbers that train in all of them. */
  parameters: number
}

/** What a run takes. Bytes, and seconds. */
export interface Plan {
  /** Memory. */
  memory: MemoryPlan
  /** Disk. */
  disk: DiskPlan
  /** How long it takes; null when that was left out. */
  time: TimePlan | null
  /** Training images; null when their folder cannot be read. */
  images: number | null
  /** Where training does not fit: what makes it smaller, each by itself, cheapest first. */
  switches: PlanSwitch[]
  /** The cheapest combination with which training fits, where it does not and there is one; else null. */
  recommended: PlanSwitch | null
  /** What else there is to know, in sentences. */
  notes: string[]
}

/** Memory of a run, in bytes: of the whole process, resident. */
export interface MemoryPlan {
  /** The most that is in memory at once. */
  peak: number
  /** When. */
  phase: MemoryPhase['name']
  /** What the run may take: what was asked for, or what this machine has available; null when it does not say. */
  limit: number | null
  /** Whether the peak is within the limit; null without one. */
  fits: boolean | null
  /** In order. */
  phases: MemoryPhase[]
}

/** Memory of a part of a run. */
export interface MemoryPhase {
  /** Encoding of captions, then images; training steps; sample images, where the recipe has prompts. */
  name: 'encode' | 'train' | 'sample'
  /** Whether the run certainly has it: a cache that may be complete needs no encoding. */
  needed: boolean
  /** The most that is in memory at once. */
  peak: number
  /** What it is for at that moment; adds up to the peak. */
  components: ComponentMemory[]
}

/** Memory of a component. */
export interface ComponentMemory {
  /**
   * `activations` are what a forward keeps for its backward, those of the block that is computed again included; `work` is
   * everything that operations need while they run; `data` latents and text embeddings.
   */
  component:
    | 'process'
    | 'textEncoder'
    | 'vae'
    | 'transformer'
    | 'lora'
    | 'optimizer'
    | 'data'
    | 'gradients'
    | 'activations'
    | 'work'
  /** How much. */
  bytes: number
}

/** What a run leaves on disk, in bytes. */
export interface DiskPlan {
  /** Latents and text embeddings of all images and captions; null when the images cannot be read. */
  cache: number | null
  /** Free where the cache lies; null when the system does not say. */
  cacheFree: number | null
  /** One checkpoint: what trains, and the optimizer's moments. */
  checkpoint: number
  /** Checkpoints that are kept. */
  checkpoints: number
  /** The trained weights. */
  result: number
  /** Free where the run folder lies; null when the system does not say. */
  outputFree: number | null
}

/** Estimates in seconds, from the rate of a few products here and now: a machine that has other work takes longer. */
export interface TimePlan {
  /** Of an optimizer step. */
  step: number
  /** All steps. */
  training: number
  /** Of all captions and images; 0 where the cache may have them. */
  encoding: number
  /** The held-out loss, each time that it is taken. */
  evaluation: number
  /** Sample images, before and after. */
  sampling: number
  /** The whole run. */
  total: number
  /** Operations of an optimizer step; a multiply-add is two. */
  stepOperations: number
  /** Operations a second that a step is expected to reach. */
  rate: number
}

/** A change of a recipe, and what it comes to. */
export interface PlanSwitch {
  /** What to write into the recipe. */
  settings: PlanSetting[]
  /** Peak of training with it, in bytes. */
  peak: number
  /** Whether that fits. */
  fits: boolean
  /** Time of a sample's share of a step, as a multiple of that without the change. */
  time: number
}

/** A line of a recipe. */
export interface PlanSetting {
  /** E.g. `model.quantization`. */
  key: string
  /** E.g. `int8`; null takes the key out. */
  value: string | number | boolean | null
}

/** What computes. */
export type DeviceInfo = CpuDevice | CudaDevice

/** The processor. */
export interface CpuDevice {
  /** Which device this is. */
  kind: 'cpu'
  /** Threads that compute. */
  threads: number
  /** Instructions that products of matrices use, by element type; `portable` uses none in particular. */
  instructions: Record<'float32' | 'bfloat16' | 'int8', string>
  /** Bytes that a run can take, within the limit of a container; null when the system does not say. */
  availableMemory: number | null
}

/** An NVIDIA card. */
export interface CudaDevice {
  /** Which device this is. */
  kind: 'cuda'
  /** The card's name. */
  name: string
  /** E.g. `8.9`. */
  computeCapability: string
  /** Bytes on the card that a run can take; null when the driver does not say. */
  availableMemory: number | null
}

/** How a hub would be used. */
export interface HubSettings {
  /** Base of its URLs. */
  endpoint: string
  /** Folder of the cache. */
  cache: string
  /** Whether there is a token. */
  token: boolean
  /** Whether only the cache may be used. */
  offline: boolean
}
