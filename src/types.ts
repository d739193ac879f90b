export type * from './recipe-types'

/** The run began. */
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
  /** The LoRA in diffusers/PEFT form, or the transformer after full fine-tuning. */
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
  images: number
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
  /** Euler steps. */
  steps?: number
  /** Classifier-free guidance; 1 switches it off. */
  guidanceScale?: number
  seed?: number
  /** The PNG to write; must not exist. */
  out: string
  /** Also write embeddings, initial latents and the image as safetensors here. */
  dump?: string
}

export interface SampleSummary {
  path: string
  dump?: string
  seconds: number
}

/** Held-out loss at fixed σ. */
export interface EvaluateSummary {
  loss: number
  perSigma: SigmaLoss[]
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
  case: string
  kind: string
  ok: boolean
  tensors: TensorCheck[]
  /** Why the case could not be computed at all. */
  error?: string
}

export interface VerifyReport {
  ok: boolean
  cases: CaseReport[]
}

/** What `inspect` found, by `kind`: a model folder, a safetensors file, a LoRA, a run folder. */
export interface Inspection {
  kind: string
  path: string
  [key: string]: unknown
}
