import { FlowtuneError, guard, guardAsync } from '../errors'
import type { Flux2Transformer } from '../models/transformer'
import { type NativeFlowMatching, type NativePreparedStep, native } from '../native'
import type { TimestepSampling } from '../recipe-types'
import { Tensor } from '../tensor/tensor'
import { checkBatch, checkTensor } from './check'
import type { Batch, FlowMatchingContext } from './context'
import { batchHandles } from './flux2-adapter'
import type { ModelAdapter } from './model-adapter'
import type { FlowMatchingPipelineOptions, LossWeight, SampleTimesteps, StepKey } from './options'

/** Noise levels of a batch. */
export interface Timesteps {
  /** float32 `[batch]`, 0..1. */
  sigma: Tensor<1>
  /** float32 `[batch]`, 1000 · sigma. */
  timesteps: Tensor<1>
  /** What drew them: the strategy, or the uniform one that was mixed in. */
  method: SamplingMethod
}

/** What drew noise levels. */
export type SamplingMethod = TimestepSampling | 'uniform_no_shift' | 'given' | 'custom'

/** Options of {@link FlowMatchingPipeline.step}. */
export interface StepOptions extends StepKey {
  /** σ of each sample, `[batch]`, instead of a draw. */
  sigma?: Tensor<1>
  /** ε, of the latents' shape, instead of a draw. */
  noise?: Tensor<4>
  /** Per sample, whether its caption is dropped, instead of a draw: `[false]` for an evaluation. */
  dropCaption?: readonly boolean[]
  /** Whether a gradient may flow back from the loss. Default true; false for an evaluation. */
  grad?: boolean
  /** Refuse a loss that is not finite or above `maxLoss`. Default true. */
  checkLoss?: boolean
}

/** What happened in a step. */
export interface StepMetrics {
  /** Weighted loss with the auxiliary ones. */
  loss: number
  /** Mean loss with all weights 1, without the auxiliary ones. */
  unweightedLoss: number
  /** Least σ of the batch, 0..1. */
  sigmaMin: number
  /** Largest σ of the batch, 0..1. */
  sigmaMax: number
  /** Mean σ of the batch, 0..1. */
  sigmaMean: number
  /** Least weight of a sample. */
  weightMin: number
  /** Largest weight of a sample. */
  weightMax: number
  /** 1000 · σ. */
  timestepMin: number
  /** 1000 · σ. */
  timestepMax: number
  /** Least element of x_t. */
  noisyMin: number
  /** Largest element of x_t. */
  noisyMax: number
  /** What drew the noise levels. */
  samplingMethod: SamplingMethod
  /** `t2i`, text to image. */
  taskType: string
  /** `image`. */
  dataType: string
  /** The adapter's auxiliary losses, by name. */
  auxiliary: Record<string, number>
}

/** The loss of a step, ready for {@link Tensor.backward}, and the rest. */
export interface StepResult {
  /** Scalar: the weighted, masked mean loss plus auxiliary losses. */
  loss: Tensor<0>
  /** Prediction of ε − x₀, `[batch, 128, h, w]`. */
  prediction: Tensor<4>
  /** What happened, in numbers. */
  metrics: StepMetrics
}

/**
 * The training step of flow matching: noise in, velocity out, squared error. After NeMo Automodel's
 * `flow_matching/pipeline.py`.
 *
 * @typeParam Inputs - what the adapter gives to the model
 * @typeParam B - the batch
 * @typeParam Model - the model
 *
 * @example
 * ```ts
 * const pipeline = new FlowMatchingPipeline(new Flux2Adapter({ useGuidanceEmbeds: false }), { flowShift: 'dynamic' })
 * const { loss, metrics } = await pipeline.step(model, batch, { seed: 7, step })
 * const gradients = await loss.backward()
 * await clipGradNorm(gradients, 1)
 * await optimizer.step(gradients)
 * ```
 */
export class FlowMatchingPipeline<Inputs = unknown, B extends Batch = Batch, Model = Flux2Transformer> {
  /** What knows the model. */
  readonly adapter: ModelAdapter<Inputs, B, Model>
  readonly #handle: NativeFlowMatching
  readonly #emptyPrompt: Tensor<2> | undefined
  readonly #sampleTimesteps: SampleTimesteps | undefined
  readonly #lossWeight: LossWeight | undefined
  readonly #cfgDropoutProb: number

  /** @throws FlowtuneError `RECIPE_INVALID` naming the option, what it may be and what came */
  constructor(adapter: ModelAdapter<Inputs, B, Model>, options: FlowMatchingPipelineOptions = {}) {
    const { emptyPrompt, sampleTimesteps, lossWeight, ...plain } = options
    this.adapter = adapter
    this.#emptyPrompt = emptyPrompt
    this.#sampleTimesteps = sampleTimesteps
    this.#lossWeight = lossWeight
    this.#handle = guard(
      () => new (native().FlowMatching)(JSON.stringify(plain), emptyPrompt && Tensor.unwrap(emptyPrompt)),
    )
    this.#cfgDropoutProb = (JSON.parse(this.#handle.options()) as { cfgDropoutProb: number }).cfgDropoutProb
  }

  /**
   * σ and timesteps of a batch: a function of seed, step and sample.
   *
   * @param batch samples
   * @param options `tokens`: image tokens of a sample, h·w of its latents, which shifts may depend on. Default 4096, 1024² pixels
   */
  sampleTimesteps(batch: number, { tokens = 4096, ...key }: StepKey & { tokens?: number } = {}): Timesteps {
    // Outside of the guard: what the user's function throws is the user's.
    if (this.#sampleTimesteps) return this.#custom(this.#sampleTimesteps, batch, tokens, key)
    return guard(() => wrapTimesteps(this.#handle.sampleTimesteps(full(key), batch, tokens)))
  }

  /**
   * The strategy, shift and clamp applied to given draws; {@link sampleTimesteps} is this on draws of its own.
   *
   * @param draws `uniform` in 0..1 and standard `normal`, one each per sample
   * @throws FlowtuneError `RECIPE_INVALID` for `beta`, which needs more than two draws
   */
  sigmasOf(
    draws: { uniform: Float32Array; normal: Float32Array },
    { tokens = 4096 }: { tokens?: number } = {},
  ): Timesteps {
    return guard(() => wrapTimesteps(this.#handle.sigmasOf(draws.uniform, draws.normal, tokens)))
  }

  /** Weight of each sample by its σ, `[batch]`. */
  lossWeights(sigma: Tensor<1>, { tokens = 4096, step = 0 }: { tokens?: number; step?: number } = {}): Tensor<1> {
    if (this.#lossWeight) return weightsOf(this.#lossWeight, sigma, tokens, step)
    return guard(() => Tensor.wrap(this.#handle.lossWeights(Tensor.unwrap(sigma), tokens)))
  }

  /**
   * One forward pass to the loss.
   *
   * @param model what the adapter runs
   * @param batch its tensors stay the caller's
   * @throws FlowtuneError `LOSS_DIVERGED` when the loss is not finite or above `maxLoss`; `SHAPE_MISMATCH` and
   * `RECIPE_INVALID` naming the argument, what came and what was expected
   */
  async step(model: Model, batch: B, options: StepOptions = {}): Promise<StepResult> {
    checkBatch(batch, this.adapter.batchKeys)
    const { step, method } = await this.#prepare(batch, options)
    const context = this.#context(batch, step, options.grad ?? true)
    const target: Tensor<4> = Tensor.wrap(step.target)

    const inputs = await this.adapter.prepareInputs(context)
    const forward = await this.adapter.forward(model, inputs, context)
    const prediction = await this.adapter.postProcessPrediction(forward, context)
    checkTensor('prediction', prediction, 'of postProcessPrediction or forward')
    const elements = await this.adapter.computeLoss(prediction, target, context)
    const auxiliary = Object.entries((await this.adapter.auxiliaryLosses(inputs, prediction, context)) ?? {})
    for (const [name, value] of auxiliary) checkTensor(name, value, 'of auxiliaryLosses')

    const output = await guardAsync(() =>
      this.#handle.loss(
        step,
        Tensor.unwrap(prediction),
        elements && Tensor.unwrap(elements),
        auxiliary.map(([name]) => name),
        auxiliary.map(([, value]) => Tensor.unwrap(value)),
        options.checkLoss ?? true,
      ),
    )
    const metrics = metricsOf(output.metricsJson)
    if (method) metrics.samplingMethod = method
    return { loss: Tensor.wrap(output.loss), prediction, metrics }
  }

  /** Noise levels, noise, x_t, target and weights. What functions of the user's give comes before what the core draws. */
  async #prepare(batch: B, options: StepOptions): Promise<{ step: NativePreparedStep; method?: SamplingMethod }> {
    const [samples = 0, , height = 0, width = 0] = batch.imageLatents.shape
    const tokens = height * width
    const hasFunctions = this.#sampleTimesteps !== undefined || this.#lossWeight !== undefined
    const drawn = hasFunctions && !options.sigma ? this.sampleTimesteps(samples, { ...options, tokens }) : undefined
    const sigma = options.sigma ?? drawn?.sigma
    const weight = this.#lossWeight && sigma && weightsOf(this.#lossWeight, sigma, tokens, options.step ?? 0)
    const given = {
      sigma: handleOf(sigma),
      noise: handleOf(options.noise),
      weight: handleOf(weight),
      dropCaption: options.dropCaption && [...options.dropCaption],
    }
    const step = await guardAsync(() => this.#handle.prepare(batchHandles(batch), full(options), given))
    return { step, method: drawn?.method }
  }

  #context(batch: B, step: NativePreparedStep, grad: boolean): FlowMatchingContext<B> {
    return {
      noisyLatents: Tensor.wrap(step.noisyLatents),
      latents: batch.imageLatents,
      noise: Tensor.wrap(step.noise),
      timesteps: Tensor.wrap(step.timesteps),
      sigma: Tensor.wrap(step.sigma),
      weight: Tensor.wrap(step.weight),
      taskType: 't2i',
      dataType: 'image',
      device: 'cpu',
      dtype: 'float32',
      cfgDropoutProb: this.#cfgDropoutProb,
      dropCaption: step.dropCaption,
      emptyPrompt: this.#emptyPrompt,
      grad,
      batch,
    }
  }

  #custom(sample: SampleTimesteps, batch: number, tokens: number, key: StepKey): Timesteps {
    const { seed, step } = full(key)
    const draws = this.#handle.draws(full(key), batch)
    const sigma = Float32Array.from(sample({ batch, tokens, seed, step, ...draws }))
    checkCount('sampleTimesteps', 'σ', sigma.length, batch)
    const timesteps = sigma.map((value) => value * 1000)
    return {
      sigma: Tensor.fromFloat32(sigma, [batch]),
      timesteps: Tensor.fromFloat32(timesteps, [batch]),
      method: 'custom',
    }
  }
}

function metricsOf(json: string): StepMetrics {
  // JSON has no NaN; the core writes null.
  const { auxiliary, ...metrics } = JSON.parse(json, (_, value) => value ?? Number.NaN) as StepMetrics & {
    auxiliary: Array<[string, number]>
  }
  return { ...metrics, auxiliary: Object.fromEntries(auxiliary) }
}

function weightsOf(lossWeight: LossWeight, sigma: Tensor<1>, tokens: number, step: number): Tensor<1> {
  const levels = sigma.toFloat32Array()
  const weight = Float32Array.from(lossWeight(levels, { tokens, step }))
  checkCount('lossWeight', 'weights', weight.length, levels.length)
  return Tensor.fromFloat32(weight, [weight.length])
}

function checkCount(name: string, what: string, got: number, expected: number): void {
  if (got === expected) return
  throw new FlowtuneError('SHAPE_MISMATCH', `${name} must give ${expected} ${what}, one per sample, but gave ${got}`)
}

function full({ seed = 0, step = 0, first = 0 }: StepKey) {
  return { seed, step, first }
}

function handleOf(tensor: Tensor | undefined) {
  return tensor && Tensor.unwrap(tensor)
}

function wrapTimesteps(drawn: { sigma: unknown; timesteps: unknown; method: string }): Timesteps {
  const { sigma, timesteps, method } = drawn as ReturnType<NativeFlowMatching['sampleTimesteps']>
  return { sigma: Tensor.wrap(sigma), timesteps: Tensor.wrap(timesteps), method: method as SamplingMethod }
}
