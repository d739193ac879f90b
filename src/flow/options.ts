import type { FlowMatchingRecipe } from '../recipe-types'
import type { Tensor } from '../tensor/tensor'

/** What a batch's noise levels are made of. */
export interface TimestepDraws {
  /** Samples. */
  batch: number
  /** Image tokens of a sample, h·w of the latents. */
  tokens: number
  /** `[batch]`, uniform in 0..1; a function of seed, step and sample. */
  uniform: Float32Array
  /** `[batch]`, standard normal; likewise. */
  normal: Float32Array
  /** Seed of the run. */
  seed: number
  /** Step that the batch belongs to. */
  step: number
}

/** Draws σ in 0..1 of each sample. Take the randomness from `uniform` and `normal`, and steps stay reproducible. */
export type SampleTimesteps = (draws: TimestepDraws) => ArrayLike<number>

/** Gives the weight of each sample. */
export type LossWeight = (sigma: Float32Array, info: { tokens: number; step: number }) => ArrayLike<number>

/**
 * As in a recipe's `flowMatching`; left out, each key has the default of NeMo Automodel's pipeline: `logit_normal`,
 * shift 3, `mixUniformRatio` 0.1, `linear` weighting, caption dropout 0.1.
 */
export interface FlowMatchingPipelineOptions
  extends Omit<FlowMatchingRecipe, 'guidanceScale' | 'captionDropout' | 'captionDropoutMode'> {
  /** Probability of dropping a caption. Default 0.1. */
  cfgDropoutProb?: number
  /** What stands in for a dropped caption, `[tokens, dim]`. Default: zeros, as in Automodel. */
  emptyPrompt?: Tensor<2>
  /** A density of noise levels of one's own, instead of `timestepSampling` and the shift. */
  sampleTimesteps?: SampleTimesteps
  /** A weight of one's own, instead of `lossWeighting`. */
  lossWeight?: LossWeight
}

/** Where a batch is in a run: all randomness of a step is a function of this and the sample's number. */
export interface StepKey {
  /** Seed of the run. Default 0. */
  seed?: number
  /** Step. Default 0. */
  step?: number
  /** Number of the batch's first sample within the step: with gradient accumulation, samples of earlier batches. Default 0. */
  first?: number
}
