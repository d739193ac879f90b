// Adapters written in TypeScript take part in the step for real, gradients included.

import { describe, expect, it } from 'vitest'
import {
  type Batch,
  createPipeline,
  type FlowMatchingContext,
  FlowMatchingPipeline,
  type FlowMatchingPipelineOptions,
  Flux2Adapter,
  type Flux2Inputs,
  type Flux2Transformer,
  type Gradients,
  ModelAdapter,
  Parameter,
  registerAdapter,
  type StepOptions,
  Tensor,
} from '../src/index'
import { addLora, distance, tinyBatch, tinyModel, values } from './helpers/model'

const plain = { useGuidanceEmbeds: false }
const options: FlowMatchingPipelineOptions = { cfgDropoutProb: 0, lossWeighting: 'none' }

async function gradientsOf(
  adapter: ModelAdapter<Flux2Inputs>,
  model: Flux2Transformer,
  { batch = tinyBatch(), ...step }: StepOptions & { batch?: Batch } = {},
  pipelineOptions = options,
): Promise<{ gradients: Gradients; loss: number }> {
  const pipeline = new FlowMatchingPipeline(adapter, pipelineOptions)
  const { loss, metrics } = await pipeline.step(model, batch, { seed: 3, ...step })
  return { gradients: await loss.backward(), loss: metrics.loss }
}

/** A model of one weight: the prediction is w·x_t. Its step can be computed on paper. */
class OneWeight extends ModelAdapter<{ noisy: Tensor<4> }, Batch, Parameter> {
  constructor(readonly lambda: number) {
    super()
  }

  prepareInputs(context: FlowMatchingContext) {
    return { noisy: context.noisyLatents }
  }

  forward(weight: Parameter, { noisy }: { noisy: Tensor<4> }): Tensor<4> {
    return noisy.mul(weight.tensor)
  }

  override auxiliaryLosses(_inputs: { noisy: Tensor<4> }, prediction: Tensor<4>) {
    return { energy: prediction.square().mean().mul(this.lambda) }
  }
}

describe('an auxiliary loss', () => {
  it('changes the gradient as its mathematics says: a case on paper', async () => {
    // x₀ = (1, 2), ε = (3, −1), σ = 1/4: x_t = (1.5, 1.25), target ε − x₀ = (2, −3), w = 2: prediction (3, 2.5).
    const weight = new Parameter('w', Tensor.fromFloat32([2], [1]))
    const batch = { imageLatents: Tensor.fromFloat32([1, 2], [1, 2, 1, 1]), textEmbeddings: Tensor.zeros([1, 1, 1]) }
    const given = { noise: Tensor.fromFloat32([3, -1], [1, 2, 1, 1]), sigma: Tensor.fromFloat32([0.25], [1]) }
    for (const lambda of [0, 0.5]) {
      const pipeline = new FlowMatchingPipeline(new OneWeight(lambda), { lossWeighting: 'linear', flowShift: 3 })
      const { loss, metrics } = await pipeline.step(weight, batch, given)
      // Weight of the sample 1 + 3·0.25 = 1.75. Main loss 1.75·((3 − 2)² + (2.5 + 3)²)/2 = 27.34375.
      // Energy λ·(9 + 6.25)/2.
      expect(metrics.auxiliary.energy).toBeCloseTo(lambda * 7.625, 6)
      expect(metrics.unweightedLoss).toBeCloseTo(15.625, 5)
      expect(metrics.loss).toBeCloseTo(27.34375 + lambda * 7.625, 5)
      // d/dw: 1.75·(1·1.5 + 5.5·1.25) + λ·(3·1.5 + 2.5·1.25).
      const gradient = (await loss.backward()).get(weight)
      expect(gradient?.item()).toBeCloseTo(1.75 * 8.375 + lambda * 7.625, 4)
    }
  })

  it('adds its gradient to that of the main loss, through the transformer', async () => {
    const model = await tinyModel()
    const parameters = await addLora(model)
    const lambda = 0.3
    class Energy extends Flux2Adapter {
      override async auxiliaryLosses(_inputs: Flux2Inputs, prediction: Tensor<4>) {
        return { energy: prediction.square().mean().mul(lambda) }
      }
    }
    class OnlyEnergy extends Energy {
      override computeLoss(prediction: Tensor<4>) {
        return prediction.mul(0)
      }
    }
    const main = await gradientsOf(new Flux2Adapter(plain), model)
    const energy = await gradientsOf(new OnlyEnergy(plain), model)
    const both = await gradientsOf(new Energy(plain), model)
    expect(both.loss).toBeCloseTo(main.loss + energy.loss, 5)
    for (const parameter of parameters) {
      const sum = values(main.gradients.get(parameter)?.add(energy.gradients.get(parameter) as Tensor))
      expect(distance(values(both.gradients.get(parameter)), sum), parameter.name).toBeLessThan(1e-5)
      expect(Math.max(...values(energy.gradients.get(parameter)).map(Math.abs)), parameter.name).toBeGreaterThan(0)
    }
  })
})

describe('computeLoss', () => {
  it('of squared errors gives what the built-in loss gives, with weights and a mask', async () => {
    class Squares extends Flux2Adapter {
      override computeLoss(prediction: Tensor<4>, target: Tensor<4>) {
        return prediction.sub(target).square()
      }
    }
    const model = await tinyModel()
    const parameters = await addLora(model)
    const lossMask = Tensor.fromFloat32([1, 0, 1, 1, 0, 1, 0, 1, 1, 1, 0, 0], [2, 1, 3, 2])
    const weighted = { ...options, lossWeighting: 'linear' } as const
    for (const batch of [tinyBatch(), { ...tinyBatch(), lossMask }]) {
      const builtIn = await gradientsOf(new Flux2Adapter(plain), model, { batch }, weighted)
      const own = await gradientsOf(new Squares(plain), model, { batch }, weighted)
      expect(own.loss).toBeCloseTo(builtIn.loss, 5)
      for (const parameter of parameters) {
        const [a, b] = [own, builtIn].map(({ gradients }) => values(gradients.get(parameter)))
        expect(distance(a as number[], b as number[]), parameter.name).toBeLessThan(1e-5)
      }
    }
  })

  it('can be another loss: Huber by hand', async () => {
    const delta = 0.5
    class Huber extends OneWeight {
      override computeLoss(prediction: Tensor<4>, target: Tensor<4>) {
        const distance = prediction.sub(target).abs()
        const near = distance.clamp(0, delta)
        // δ²/2-smoothed: near²/2 + δ·(|d| − near).
        return near.square().mul(0.5).add(distance.sub(near).mul(delta))
      }
    }
    const weight = new Parameter('w', Tensor.fromFloat32([2], [1]))
    const batch = { imageLatents: Tensor.fromFloat32([1, 2], [1, 2, 1, 1]), textEmbeddings: Tensor.zeros([1, 1, 1]) }
    // x_t = (1.5, 1.25); prediction (3, 2.5); target (2.8, −3): distances 0.2 (inside) and 5.5 (outside).
    const given = { noise: Tensor.fromFloat32([3.8, -1], [1, 2, 1, 1]), sigma: Tensor.fromFloat32([0.25], [1]) }
    const { loss, metrics } = await new FlowMatchingPipeline(new Huber(0), options).step(weight, batch, given)
    const x = [0.75 + 0.25 * 3.8, 1.25]
    const distances = [2 * (x[0] ?? 0) - 2.8, 5.5]
    const [near = 0, far = 0] = distances
    const expected =
      (Math.min(near, delta) ** 2 / 2 + delta * Math.max(near - delta, 0) + 0.125 + delta * (far - delta)) / 2
    expect(metrics.loss).toBeCloseTo(expected, 5)
    const slope = (Math.min(near, delta) * (x[0] ?? 0) + delta * (x[1] ?? 0)) / 2
    expect((await loss.backward()).get(weight)?.item()).toBeCloseTo(slope, 5)
  })
})

describe('every method', () => {
  it('runs in order, and what it changes counts', async () => {
    const calls: string[] = []
    interface Depth extends Batch {
      depth: Tensor<4>
    }
    class Everything extends Flux2Adapter<Depth> {
      override get batchKeys() {
        return [...(super.batchKeys ?? []), 'depth']
      }
      override async prepareInputs(context: FlowMatchingContext<Depth>) {
        calls.push('prepareInputs')
        const inputs = await super.prepareInputs(context)
        return { ...inputs, hiddenStates: inputs.hiddenStates.add(this.packLatents(context.batch.depth)) }
      }
      override async forward(model: Flux2Transformer, inputs: Flux2Inputs, context: FlowMatchingContext<Depth>) {
        calls.push('forward')
        // The mean of two passes, one of them of a teacher without gradient.
        const student = await super.forward(model, inputs, context)
        const teacher = await super.forward(model, inputs, { ...context, grad: false })
        expect([student.requiresGrad, teacher.requiresGrad]).toEqual([true, false])
        return student.add(teacher).mul(0.5)
      }
      override postProcessPrediction(prediction: Tensor<4>) {
        calls.push('postProcessPrediction')
        return prediction.mul(2)
      }
      override computeLoss(prediction: Tensor<4>, target: Tensor<4>, context: FlowMatchingContext<Depth>) {
        calls.push('computeLoss')
        expect(values(target)).toEqual(values(context.noise.sub(context.latents)))
        return prediction.sub(target).square()
      }
      override auxiliaryLosses(_inputs: Flux2Inputs, prediction: Tensor<4>) {
        calls.push('auxiliaryLosses')
        return { none: prediction.mean().mul(0) }
      }
    }
    const model = await tinyModel()
    const parameters = await addLora(model)
    const batch: Depth = { ...tinyBatch(), depth: Tensor.randn([2, 8, 3, 2], { seed: 77 }) }
    const pipeline = new FlowMatchingPipeline(new Everything(plain), options)
    const { loss, prediction, metrics } = await pipeline.step(model, batch, { seed: 3 })
    expect(calls).toEqual(['prepareInputs', 'forward', 'postProcessPrediction', 'computeLoss', 'auxiliaryLosses'])
    // 2·(student + teacher)/2 with equal values is 2·prediction; only the student passes a gradient on, half of it.
    const shifted = { ...tinyBatch() }
    class Reference extends Flux2Adapter {
      override async prepareInputs(context: FlowMatchingContext) {
        const inputs = await super.prepareInputs(context)
        return { ...inputs, hiddenStates: inputs.hiddenStates.add(this.packLatents(batch.depth)) }
      }
      override computeLoss(once: Tensor<4>, target: Tensor<4>) {
        const twice = once.add(once.detach())
        return twice.sub(target).square()
      }
    }
    const reference = new FlowMatchingPipeline(new Reference(plain), options)
    const expected = await reference.step(model, shifted, { seed: 3 })
    expect(metrics.loss).toBeCloseTo(expected.metrics.loss, 5)
    expect(distance(values(prediction), values(expected.prediction.mul(2)))).toBeLessThan(1e-6)
    const [got, want] = [await loss.backward(), await expected.loss.backward()]
    for (const parameter of parameters) {
      expect(distance(values(got.get(parameter)), values(want.get(parameter))), parameter.name).toBeLessThan(1e-5)
    }
  })

  it('may fail, and the step with it', async () => {
    class Failing extends Flux2Adapter {
      override auxiliaryLosses(): never {
        throw new RangeError('out of cheese')
      }
    }
    const model = await tinyModel()
    await addLora(model)
    const step = new FlowMatchingPipeline(new Failing(plain), options).step(model, tinyBatch())
    await expect(step).rejects.toThrow(new RangeError('out of cheese'))
  })
})

describe('a parameter of one’s own', () => {
  it.each([
    ['', undefined],
    [', where samples have references and none', [[Tensor.randn([8, 2, 1], { seed: 8 })], []]],
  ])('learns through the transformer: central differences%s', async (_, references) => {
    const batch = { ...tinyBatch(), ...(references && { references }) }
    const model = await tinyModel()
    const style = new Parameter('style', Tensor.randn([1, 1, 6], { seed: 5 }))
    class Styled extends Flux2Adapter {
      override async prepareInputs(context: FlowMatchingContext) {
        const inputs = await super.prepareInputs(context)
        return { ...inputs, encoderHiddenStates: inputs.encoderHiddenStates.add(style.tensor) }
      }
    }
    const adapter = new Styled(plain)
    const { gradients } = await gradientsOf(adapter, model, { batch })
    expect(gradients.size).toBe(1)
    const gradient = values(gradients.get(style))
    const start = values(style.tensor)
    const h = 1e-2
    for (let i = 0; i < start.length; i += 1) {
      const lossAt = async (value: number) => {
        style.assign(
          Tensor.fromFloat32(
            start.map((was, j) => (j === i ? value : was)),
            [1, 1, 6],
          ),
        )
        return (await gradientsOf(adapter, model, { batch })).loss
      }
      const slope = ((await lossAt((start[i] ?? 0) + h)) - (await lossAt((start[i] ?? 0) - h))) / (2 * h)
      style.assign(Tensor.fromFloat32(start, [1, 1, 6]))
      // float32: the loss has seven digits, of which a difference over 2h loses four.
      expect(Math.abs(slope - (gradient[i] ?? 0)), `entry ${i}`).toBeLessThan(
        2e-3 * Math.max(...gradient.map(Math.abs)) + 1e-4,
      )
    }
  })
})

describe('the step', () => {
  it('takes a density and a weight of the user', async () => {
    const model = await tinyModel()
    await addLora(model)
    const pipeline = new FlowMatchingPipeline(new Flux2Adapter(plain), {
      ...options,
      sampleTimesteps: ({ batch, uniform, tokens }) => {
        expect([batch, uniform.length, tokens]).toEqual([2, 2, 6])
        return [0.25, 0.75]
      },
      lossWeight: (sigma) => sigma.map((level) => 4 * level),
    })
    const { metrics } = await pipeline.step(model, tinyBatch())
    const { sigmaMin, sigmaMax, weightMin, weightMax, timestepMax, samplingMethod } = metrics
    expect([sigmaMin, sigmaMax, weightMin, weightMax, timestepMax, samplingMethod]).toEqual([
      0.25,
      0.75,
      1,
      3,
      750,
      'custom',
    ])
    const fails = () => {
      throw new RangeError('no such density')
    }
    const broken = new FlowMatchingPipeline(new Flux2Adapter(plain), { ...options, sampleTimesteps: fails })
    await expect(broken.step(model, tinyBatch())).rejects.toThrow(new RangeError('no such density'))
    const wrong = new FlowMatchingPipeline(new Flux2Adapter(plain), { ...options, lossWeight: () => [1] })
    await expect(wrong.step(model, tinyBatch())).rejects.toThrow(
      'lossWeight must give 2 weights, one per sample, but gave 1',
    )
  })

  it('weighs the σ that it drew itself', async () => {
    const model = await tinyModel()
    const seen: number[] = []
    const lossWeight = (sigma: Float32Array) => {
      seen.push(...sigma)
      return sigma
    }
    const pipeline = new FlowMatchingPipeline(new Flux2Adapter(plain), { ...options, lossWeight, mixUniformRatio: 0 })
    const { metrics } = await pipeline.step(model, tinyBatch(), { seed: 9, grad: false })
    expect([metrics.sigmaMin, metrics.sigmaMax].map(Math.fround)).toEqual([Math.min(...seen), Math.max(...seen)])
    expect(metrics.samplingMethod).toBe('logit_normal')
  })

  it('is a function of seed and step, and of nothing else', async () => {
    const model = await tinyModel()
    await addLora(model)
    const pipeline = createPipeline('flux2', plain)
    const run = async (key: StepOptions) => (await pipeline.step(model, tinyBatch(), key)).metrics
    expect(await run({ seed: 1, step: 2 })).toEqual(await run({ seed: 1, step: 2 }))
    expect(await run({ seed: 1, step: 3 })).not.toEqual(await run({ seed: 1, step: 2 }))
  })

  it('leaves masked elements out', async () => {
    const model = await tinyModel()
    await addLora(model)
    const pipeline = new FlowMatchingPipeline(new Flux2Adapter(plain), options)
    const lossMask = Tensor.fromFloat32([1, 0, 0, 0, 0, 0], [1, 1, 3, 2])
    const { prediction, metrics } = await pipeline.step(model, { ...tinyBatch(1), lossMask }, { seed: 2 })
    const noise = Tensor.randn([1, 8, 3, 2], { seed: 2 })
    const error = prediction
      .sub(noise.sub(tinyBatch(1).imageLatents))
      .narrow(2, 0, 1)
      .narrow(3, 0, 1)
    expect(metrics.unweightedLoss).toBeCloseTo(error.square().mean().item(), 5)
  })

  it('has no gradient when none is wanted, and none when nothing trains', async () => {
    const model = await tinyModel()
    const pipeline = new FlowMatchingPipeline(new Flux2Adapter(plain), options)
    const frozen = await pipeline.step(model, tinyBatch())
    expect(frozen.loss.requiresGrad).toBe(false)
    await expect(frozen.loss.backward()).rejects.toMatchObject({ code: 'INVALID_ARGUMENT' })
    await addLora(model)
    expect((await pipeline.step(model, tinyBatch(), { grad: false })).loss.requiresGrad).toBe(false)
    expect((await pipeline.step(model, tinyBatch())).loss.requiresGrad).toBe(true)
  })

  it('refuses a loss that is too large unless told otherwise', async () => {
    const model = await tinyModel()
    await addLora(model)
    const pipeline = new FlowMatchingPipeline(new Flux2Adapter(plain), { ...options, maxLoss: 1e-3 })
    await expect(pipeline.step(model, tinyBatch())).rejects.toMatchObject({ code: 'LOSS_DIVERGED' })
    expect((await pipeline.step(model, tinyBatch(), { checkLoss: false })).metrics.loss).toBeGreaterThan(1e-3)
    const nan = { ...tinyBatch(), imageLatents: Tensor.full(Number.NaN, [2, 8, 3, 2]) }
    await expect(pipeline.step(model, nan)).rejects.toMatchObject({ code: 'LOSS_DIVERGED' })
    expect((await pipeline.step(model, nan, { checkLoss: false })).metrics.loss).toBeNaN()
  })

  it('recomputes activations or keeps them, with the same gradients', async () => {
    const model = await tinyModel()
    const parameters = await addLora(model)
    const recomputed = await gradientsOf(new Flux2Adapter(plain), model)
    model.activationCheckpointing = false
    const kept = await gradientsOf(new Flux2Adapter(plain), model)
    for (const parameter of parameters) {
      expect(values(kept.gradients.get(parameter))).toEqual(values(recomputed.gradients.get(parameter)))
    }
  })

  it('drops the captions that it is told to drop', async () => {
    const model = await tinyModel()
    const pipeline = new FlowMatchingPipeline(new Flux2Adapter(plain), { cfgDropoutProb: 1 })
    const run = async (batch: Batch, dropCaption?: boolean[]) =>
      (await pipeline.step(model, batch, { dropCaption, grad: false })).metrics.loss
    const without = { ...tinyBatch(), textEmbeddings: Tensor.zeros([2, 4, 6]) }
    expect(await run(tinyBatch(), [false, false])).not.toBe(await run(tinyBatch()))
    expect(await run(tinyBatch())).toBe(await run(without, [false, false]))
    await expect(run(tinyBatch(), [true])).rejects.toThrow('dropCaption must have 2 entries, got 1')
  })

  it('drops captions at the rate that was asked for', async () => {
    const dropped: boolean[] = []
    class Watching extends Flux2Adapter {
      override prepareInputs(context: FlowMatchingContext) {
        dropped.push(...context.dropCaption)
        return super.prepareInputs(context)
      }
    }
    const model = await tinyModel()
    const pipeline = new FlowMatchingPipeline(new Watching(plain), { cfgDropoutProb: 0.25 })
    for (let step = 0; step < 50; step += 1) await pipeline.step(model, tinyBatch(40), { step, grad: false })
    const rate = dropped.filter(Boolean).length / dropped.length
    expect(dropped.length).toBe(2000)
    expect(Math.abs(rate - 0.25)).toBeLessThan(5 * Math.sqrt((0.25 * 0.75) / 2000))
  })
})

declare module '../src/flow/create' {
  interface AdapterRegistry {
    calm: { adapter: Flux2Adapter; options: { strength: number } }
  }
}

it('is known by a name of one’s own', async () => {
  registerAdapter('calm', ({ strength }) => {
    class Calm extends Flux2Adapter {
      override auxiliaryLosses(_inputs: Flux2Inputs, prediction: Tensor<4>) {
        return { calm: prediction.square().mean().mul(strength) }
      }
    }
    return new Calm(plain)
  })
  const model = await tinyModel()
  const { metrics } = await createPipeline('calm', { strength: 0.5 }).step(model, tinyBatch())
  expect(metrics.auxiliary.calm).toBeGreaterThan(0)
})
