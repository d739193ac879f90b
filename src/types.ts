export type * from './recipe-types'

/** The run began, or went on after a resume. */
export interface StartedEvent {
  type: 'started'
  runDir: string
  /** Optimizer steps of the whole run, those before a resume included. */
  totalSteps: number
  trainableParameters: number
}

/** Work other than training steps: caching, verifying, sampling. */
export interface ProgressEvent {
  type: 'progress'
  stage: string
  done: number
  total: number
}

/** One optimizer step. */
export interface StepEvent {
  type: 'step'
  /** Counted from 1. */
  step: number
  totalSteps: number
  /** Weighted loss, mean over the step's samples. */
  loss: number
  /** Global norm of the gradients before clipping. */
  gradNorm: number
  lr: number
  secondsPerStep: number
  sigmaMean: number
}

/** Held-out loss at fixed σ and fixed noise. */
export interface EvaluationEvent {
  type: 'evaluation'
  /** 0 is before training. */
  step: number
  loss: number
  perSigma: SigmaLoss[]
}

export interface SigmaLoss {
  sigma: number
  loss: number
}

/** A sample image was written. */
export interface SampleEvent {
  type: 'sample'
  step: number
  path: string
  prompt: string
}

/** A checkpoint was written. */
export interface CheckpointEvent {
  type: 'checkpoint'
  step: number
  path: string
}

/** Something the user should know that does not stop the run. */
export interface WarningEvent {
  type: 'warning'
  code: string
  message: string
}

/** The run ended well. */
export interface FinishedEvent extends TrainSummary {
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
  runDir: string
  steps: number
  /** Folder of the LoRA in diffusers/PEFT form, or of the transformer after full fine-tuning. */
  weights: string
  /** Held-out loss before and after; absent without held-out images. */
  evaluationBefore?: number
  evaluationAfter?: number
  /** Sample images before and after training, in the order of `validation.prompts`. */
  samplesBefore?: string[]
  samplesAfter?: string[]
  plot?: string
  report?: string
  /** Wall-clock seconds of training steps. */
  trainingSeconds?: number
}

/** What `prepare` cached. */
export interface PrepareSummary {
  cacheDir: string
  /** Held-out ones included. */
  images: number
  /** Distinct ones. */
  captions: number
  /** Files left out because they could not be read (`data.onBadFile: skip`). */
  skipped: string[]
}

export interface SampleOptions {
  /** Folder of a FLUX.2 pipeline in diffusers layout. */
  model: string
  /** A LoRA in diffusers/PEFT form: its file or its folder. */
  lora?: string
  prompt: string
  /** Default: the empty prompt. */
  negativePrompt?: string
  /** Pixels, multiples of 16. */
  width: number
  height: number
  /** Euler steps. Default 28, for distilled models 4. */
  steps?: number
  /** Classifier-free guidance; 1 switches it off. Default 4, for distilled models 1. */
  guidanceScale?: number
  /** Seed of the initial noise. Default 0. */
  seed?: number
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
  perSigma: SigmaLoss[]
  /** Held-out images. */
  images: number
}

/** One tensor of a parity case. */
export interface TensorCheck {
  name: string
  /** Worst error, as a share of the largest expected value (of images: absolute); the largest double when it is not finite. */
  error: number
  bound: number
  ok: boolean
}

export interface CaseReport {
  /** Name of its folder. */
  name: string
  /** `adapter`, `schedule`, `train`, `vae`, `text`, `sample` or `pipeline`; what a case says it is, or `unknown`. */
  kind: string
  ok: boolean
  tensors: TensorCheck[]
  /** Why the case could not be computed at all, then with no tensors. */
  message?: string
}

export interface VerifyReport {
  ok: boolean
  cases: CaseReport[]
}

/** What `inspect` found, by `kind`. */
export type Inspection = ModelInspection | RunInspection | TensorsInspection

/** A model folder in diffusers layout. */
export interface ModelInspection {
  kind: 'model'
  path: string
  /** Of diffusers, as `Flux2KleinPipeline`. */
  class: string
  /** Whether it is step-distilled. */
  distilled: boolean
  /** Whether it has a guidance embedding. */
  guidance: boolean
  doubleBlocks: number
  singleBlocks: number
  dim: number
  heads: number
  jointAttentionDim: number
  transformer: ComponentSize
  vae: ComponentSize
  textEncoder: ComponentSize
  textTokens: number
}

/** Weights of a part of a model. */
export interface ComponentSize {
  tensors: number
  parameters: number
}

/** A run folder. */
export interface RunInspection {
  kind: 'run'
  path: string
  /** Folder of the model it started from. */
  model: string
  mode: 'lora' | 'full'
  /** Optimizer steps of the whole run. */
  steps: number
  lastStep: { step: number; loss: number } | null
  /** Steps of the checkpoints that are there and whole. */
  checkpoints: number[]
  finished: FinishedEvent | null
}

/** A safetensors file, a folder of them, or a LoRA. */
export interface TensorsInspection {
  kind: 'lora' | 'safetensors'
  path: string
  parameters: number
  rank: number | null
  metadata: Record<string, string> | null
  tensors: Array<{ name: string; shape: number[] }>
}
