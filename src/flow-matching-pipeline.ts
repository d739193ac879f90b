import { guard } from './errors'
import { Flux2Adapter } from './flux2-adapter'
import { type NativePipeline, native } from './native'
import { Tensor } from './tensor'
import type { FlowMatchingRecipe, TimestepSampling } from './types'

/** As in a recipe's `flowMatching`; left out, each key has the default of NeMo Automodel's pipeline (shift 3, mix 0.1, linear weighting). */
export type FlowMatchingPipelineOptions = Pick<
  FlowMatchingRecipe,
  | 'timestepSampling'
  | 'logitMean'
  | 'logitStd'
  | 'flowShift'
  | 'sigmaMin'
  | 'sigmaMax'
  | 'mixUniformRatio'
  | 'useSigmaNoise'
  | 'lossWeighting'
  | 'maxLoss'
> & {
  /** Probability of dropping a caption. Default 0.1. */
  cfgDropoutProb?: number
}

/** Noise levels of a batch. */
export interface Timesteps {
  /** float32 `[batch]`, 0..1. */
  sigma: Tensor
  /** float32 `[batch]`, 1000 · sigma. */
  timesteps: Tensor
  /** How this batch was drawn: the strategy, or the uniform one that was mixed in. */
  method: TimestepSampling | 'mix_uniform' | 'uniform_no_shift' | (string & {})
}

/** Draws noise levels and forms the training step. After NeMo Automodel's `flow_matching/pipeline.py`. */
export class FlowMatchingPipeline {
  readonly #handle: NativePipeline
  readonly adapter: Flux2Adapter

  constructor(adapter: Flux2Adapter, options: FlowMatchingPipelineOptions = {}) {
    this.adapter = adapter
    this.#handle = guard(
      () => new (native().FlowMatchingPipeline)(Flux2Adapter.unwrap(adapter), JSON.stringify(options)),
    )
  }

  /**
   * σ and timesteps of a batch.
   *
   * @param batch samples
   * @param options `tokens`: image tokens of a sample, which the dynamic shift depends on; `seed` and `step`: the draw is a function of them
   */
  sampleTimesteps(batch: number, options: { tokens?: number; seed?: number; step?: number } = {}): Timesteps {
    return guard(() => {
      const drawn = this.#handle.sampleTimesteps(batch, options.tokens ?? 4096, options.seed ?? 0, options.step ?? 0)
      return { ...drawn, sigma: Tensor.wrap(drawn.sigma), timesteps: Tensor.wrap(drawn.timesteps) }
    })
  }
}
