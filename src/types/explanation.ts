import type { FlowMatchingRecipe, Recipe } from '../recipe-types'

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
