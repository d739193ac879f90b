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
