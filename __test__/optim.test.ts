import { join } from 'node:path'
import { describe, expect, it } from 'vitest'
import {
  AdamW,
  type Batch,
  clipGradNorm,
  createPipeline,
  type Flux2Transformer,
  type Gradients,
  LrSchedule,
  loadSafetensors,
  type Optimizer,
  type OptimizerStepOptions,
  Parameter,
  type StateDict,
  saveSafetensors,
  Tensor,
} from '../src/index'
import { tinyBatch, tinyModel, values } from './helpers/model'
import { temporaryFolder } from './helpers/paths'

const pipeline = createPipeline('flux2', { useGuidanceEmbeds: false })
const batchOf = (step: number): Batch => tinyBatch(2, 1000 + 10 * step)

/** One step with accumulation over two batches. */
async function trainStep(model: Flux2Transformer, optimizer: Optimizer, step: number, lr?: number): Promise<number> {
  let gradients: Gradients | undefined
  let sum = 0
  for (const micro of [0, 1]) {
    const { loss, metrics } = await pipeline.step(model, batchOf(2 * step + micro), { seed: 5, step, first: 2 * micro })
    gradients = await loss.backward({ gradients, scale: 0.5 })
    sum += metrics.loss / 2
  }
  await clipGradNorm(gradients as Gradients, 1)
  await optimizer.step(gradients as Gradients, { lr })
  return sum
}

describe('a resumed script', () => {
  it('goes on like an uninterrupted one, to the last bit', async () => {
    const options = { lr: 1e-2, weightDecay: 0.1 }
    const scheduled = { type: 'cosine', lr: 1e-2, totalSteps: 8, warmupSteps: 2 } as const
    const start = async () => {
      const model = await tinyModel()
      const parameters = await model.addLora({ rank: 2, seed: 3 })
      return { model, parameters, optimizer: new AdamW(parameters, options), schedule: new LrSchedule(scheduled) }
    }
    type Script = Awaited<ReturnType<typeof start>>
    const run = async ({ model, optimizer, schedule }: Script, from: number, to: number) => {
      for (let step = from; step < to; step += 1) {
        await trainStep(model, optimizer, step, schedule.lr)
        schedule.step()
      }
    }
    const whole = await start()
    await run(whole, 0, 8)

    const first = await start()
    await run(first, 0, 3)
    const path = join(temporaryFolder(), 'checkpoint.safetensors')
    const weights = Object.fromEntries(first.parameters.map((parameter) => [parameter.name, parameter.tensor]))
    await saveSafetensors(
      path,
      { ...weights, ...first.optimizer.stateDict() },
      { schedule: JSON.stringify(first.schedule.stateDict()) },
    )

    const second = await start()
    const { tensors, metadata } = await loadSafetensors(path)
    for (const parameter of second.parameters) parameter.assign(tensors[parameter.name] as Tensor)
    const isState = (name: string) => name === 'step' || name.includes('.exp_avg')
    second.optimizer.loadStateDict(Object.fromEntries(Object.entries(tensors).filter(([name]) => isState(name))))
    second.schedule.loadStateDict(JSON.parse(metadata.schedule ?? ''))
    await run(second, 3, 8)

    whole.parameters.forEach((parameter, i) => {
      const resumed = second.parameters[i] as Parameter
      expect(resumed.tensor.toFloat32Array(), parameter.name).toEqual(parameter.tensor.toFloat32Array())
    })
  })
})

describe('AdamW', () => {
  it('takes PyTorch’s first step: the sign of the gradient times lr, after decay', async () => {
    const w = new Parameter('w', Tensor.fromFloat32([1, -2], [2]))
    const optimizer = new AdamW([w], { lr: 0.1, weightDecay: 0.5, eps: 0 })
    const gradients = await w.tensor
      .mul(Tensor.fromFloat32([3, -4], [2]))
      .sum()
      .backward()
    await optimizer.step(gradients)
    const after = values(w.tensor)
    expect(after[0]).toBeCloseTo(1 * 0.95 - 0.1, 6)
    expect(after[1]).toBeCloseTo(-2 * 0.95 + 0.1, 6)
    const state = optimizer.stateDict()
    expect(Object.keys(state)).toEqual(['step', 'w.exp_avg', 'w.exp_avg_sq'])
    expect(state.step?.toBigInt64Array()).toEqual(BigInt64Array.of(1n))
  })

  it('changes nothing when a gradient is missing, or a state does not fit', async () => {
    const [w, v] = [new Parameter('w', Tensor.full(1, [1])), new Parameter('v', Tensor.full(1, [1]))]
    const optimizer = new AdamW([w, v])
    const gradients = await w.tensor.square().backward()
    await expect(optimizer.step(gradients)).rejects.toThrow(/v has no gradient/)
    expect(values(w.tensor)).toEqual([1])
    expect(() => optimizer.loadStateDict({})).toThrow(/step is missing|is missing/)
    const other = new AdamW([new Parameter('w', Tensor.full(1, [2])), v]).stateDict()
    expect(() => optimizer.loadStateDict(other)).toThrow(/w\.exp_avg must be float32 \[1\]/)
    expect(optimizer.stateDict().step?.toBigInt64Array()).toEqual(BigInt64Array.of(0n))
  })
})

describe('clipGradNorm', () => {
  it('scales to the norm that is allowed, and measures', async () => {
    const [w, v] = [new Parameter('w', Tensor.full(1, [1])), new Parameter('v', Tensor.full(1, [1]))]
    const gradients = await w.tensor.mul(3).add(v.tensor.mul(4)).backward()
    expect(await clipGradNorm(gradients, 0)).toBe(5)
    expect(gradients.get(w)?.item()).toBe(3)
    expect(await clipGradNorm(gradients, 2.5)).toBe(5)
    expect(gradients.get(w)?.item()).toBeCloseTo(1.5, 5)
    expect(gradients.get(v)?.item()).toBeCloseTo(2, 5)
    expect(await clipGradNorm(gradients, 100)).toBeCloseTo(2.5, 5)
  })
})

describe('LrSchedule', () => {
  it('is that of transformers', () => {
    const schedule = new LrSchedule({ type: 'cosine', lr: 1, totalSteps: 10, warmupSteps: 2 })
    const rates = Array.from({ length: 10 }, (_, i) => Number(schedule.at(i).toFixed(6)))
    // `get_cosine_schedule_with_warmup(opt, 2, 10)`.
    expect(rates).toEqual([0, 0.5, 1, 0.96194, 0.853553, 0.691342, 0.5, 0.308658, 0.146447, 0.03806])
    schedule.step()
    expect([schedule.lr, schedule.stateDict()]).toEqual([0.5, { step: 1 }])
    const resumed = new LrSchedule({ type: 'cosine', lr: 1, totalSteps: 10, warmupSteps: 2 })
    resumed.loadStateDict({ step: 6 })
    expect(resumed.lr).toBeCloseTo(0.5, 12)
  })
})

it('an optimizer of one’s own trains', async () => {
  class Sgd implements Optimizer {
    lr = 1
    constructor(readonly parameters: readonly Parameter[]) {}
    async step(gradients: Gradients, { lr = this.lr }: OptimizerStepOptions = {}) {
      for (const parameter of this.parameters) {
        const gradient = gradients.get(parameter)
        if (gradient) parameter.assign(parameter.tensor.detach().sub(gradient.mul(lr)))
      }
    }
    stateDict(): StateDict {
      return {}
    }
    loadStateDict() {}
  }
  const model = await tinyModel()
  const optimizer = new Sgd(await model.addLora({ rank: 4 }))
  const lossAt = async () => (await pipeline.step(model, batchOf(0), { seed: 5, grad: false })).metrics.loss
  const before = await lossAt()
  for (let i = 0; i < 30; i += 1) {
    const { loss } = await pipeline.step(model, batchOf(0), { seed: 5 })
    await optimizer.step(await loss.backward())
  }
  expect(await lossAt()).toBeLessThan(before * 0.98)
})
