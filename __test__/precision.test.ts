import { execFileSync } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import { describe, expect, it } from 'vitest'
import {
  AdamW,
  clipGradNorm,
  createPipeline,
  Flux2Transformer,
  type LoadOptions,
  resolveRecipe,
  train,
  verify,
} from '../src/index'
import { addLora, tinyBatch, tinyConfig, tinyModel, values } from './helpers/model'
import { cases, temporaryFolder } from './helpers/paths'
import { tinyRecipe } from './helpers/recipe'

/** Loss and, by name, gradients of one step of adapters on a model that is loaded so. */
async function step(options: LoadOptions) {
  const model = await Flux2Transformer.fromConfig(tinyConfig, { seed: 1, ...options })
  const parameters = await addLora(model)
  const { loss } = await createPipeline('flux2').step(model, tinyBatch(), { seed: 3, step: 0 })
  const gradients = await loss.backward()
  const of = parameters.map((parameter) => values(gradients.get(parameter)))
  return { model, loss: loss.item(), gradients: of.flat() }
}

function cosine(a: readonly number[], b: readonly number[]): number {
  const dot = (x: readonly number[], y: readonly number[]) => x.reduce((sum, value, i) => sum + value * (y[i] ?? 0), 0)
  return dot(a, b) / Math.sqrt(dot(a, a) * dot(b, b))
}

describe('a transformer in another type', () => {
  it.each<[LoadOptions, string, number]>([
    [{ dtype: 'bfloat16' }, 'bfloat16', 0.999],
    [{ dtype: 'bfloat16', quantization: 'int8' }, 'int8', 0.99],
    [{ dtype: 'float32', quantization: 'int8' }, 'int8', 0.99],
  ])('%o keeps %s weights and trains in the same direction', async (options, dtype, least) => {
    const [exact, rounded] = [await step({}), await step(options)]
    const weights = rounded.model.parameters.filter(({ name }) => name.endsWith('attn.to_q.weight'))
    expect(new Set(weights.map((weight) => weight.dtype))).toEqual(new Set([dtype]))
    expect(Math.abs(rounded.loss / exact.loss - 1)).toBeLessThan(0.01)
    expect(rounded.loss).not.toBe(exact.loss)
    expect(cosine(rounded.gradients, exact.gradients)).toBeGreaterThan(least)
  })

  it('over nf4 is nearly the same model', async () => {
    const [exact, rounded] = [await step({}), await step({ dtype: 'bfloat16', quantization: 'nf4' })]
    const weights = rounded.model.parameters.filter(({ name }) => name.endsWith('attn.to_q.weight'))
    expect(new Set(weights.map((weight) => weight.dtype))).toEqual(new Set(['nf4']))
    expect(Math.abs(rounded.loss / exact.loss - 1)).toBeLessThan(0.05)
    expect(cosine(rounded.gradients, exact.gradients)).toBeGreaterThan(0.8)
  })

  it('trains all of its weights only when they are float32', async () => {
    const model = await Flux2Transformer.fromConfig(tinyConfig, { seed: 1, dtype: 'bfloat16' })
    expect(() => model.setTrainable(true)).toThrow(expect.objectContaining({ code: 'INVALID_ARGUMENT' }))
    const masters = await Flux2Transformer.fromConfig(tinyConfig, { seed: 1, dtype: 'bfloat16', trainable: true })
    masters.setTrainable(true)
    const optimizer = new AdamW(masters.trainableParameters, { lr: 1e-3 })
    const { loss } = await createPipeline('flux2').step(masters, tinyBatch(), { seed: 3, step: 0 })
    const gradients = await loss.backward()
    expect(await clipGradNorm(gradients, 1)).toBeGreaterThan(0)
    await optimizer.step(gradients)
    expect(gradients.size).toBe(masters.parameters.length)
  })

  it('names an option that it does not know', async () => {
    const wrong = Flux2Transformer.fromConfig(tinyConfig, { dtype: 'float16' } as never)
    await expect(wrong).rejects.toMatchObject({
      code: 'RECIPE_INVALID',
      message: expect.stringContaining('`dtype` must be one of float32, bfloat16, got "float16"'),
    })
    const contradiction = Flux2Transformer.fromConfig(tinyConfig, { quantization: 'int8', trainable: true })
    await expect(contradiction).rejects.toMatchObject({ code: 'RECIPE_INVALID' })
  })
})

describe('a memory budget', () => {
  it('changes what is kept, and no bit of the result', async () => {
    const results = []
    for (const memoryBudget of [undefined, 1e-6, 100]) {
      const model = await tinyModel()
      if (memoryBudget) model.memoryBudget = memoryBudget
      const [first] = await addLora(model)
      const { loss } = await createPipeline('flux2').step(model, tinyBatch(), { seed: 3, step: 0 })
      const gradients = await loss.backward()
      results.push(values(first && gradients.get(first)))
    }
    expect(results[1]).toEqual(results[0])
    expect(results[2]).toEqual(results[0])
  })
})

describe('a recipe', () => {
  it.each([
    ['bfloat16', 'none'],
    ['bfloat16', 'int8'],
  ] as const)('trains in %s with quantization %s', async (dtype, quantization) => {
    const recipe = tinyRecipe(temporaryFolder(), 2)
    const run = await train({
      ...recipe,
      model: { ...recipe.model, dtype, quantization },
      train: { ...recipe.train, memoryBudget: 1 },
    })
    const { steps, evaluationBefore, evaluationAfter } = await run.wait()
    expect(steps).toBe(2)
    expect(evaluationAfter).not.toBe(evaluationBefore)
  })

  it('does not quantise what it trains', () => {
    const recipe = { model: { path: 'm', quantization: 'int8' as const }, data: { train: 'd' }, mode: 'full' as const }
    expect(() => resolveRecipe({ ...recipe, train: { steps: 1 } })).toThrow(
      '`quantization` must be none when `mode` is full',
    )
  })
})

describe('verify', () => {
  it('compares directions in bfloat16, and leaves out what is float32 only', async () => {
    const report = await verify(cases, { dtype: 'bfloat16' })
    expect(report.cases.map(({ kind }) => kind)).toEqual(Array(5).fill('train'))
    expect(report.ok).toBe(true)
  })
})

describe('FLOWTUNE_NUM_THREADS', () => {
  const script = fileURLToPath(new URL('helpers/one-step.mjs', import.meta.url))
  const run = (threads: string) =>
    execFileSync(process.execPath, [script], {
      env: { ...process.env, FLOWTUNE_NUM_THREADS: threads },
      encoding: 'utf8',
    })

  it('changes how many threads there are, and no bit of the result', () => {
    const [one, three] = [JSON.parse(run('1')), JSON.parse(run('3'))]
    expect(three.gradient).toEqual(one.gradient)
    if (process.platform === 'linux') expect(three.threads - one.threads).toBe(2)
  })

  it('must be a number of threads', () => {
    expect(() => run('many')).toThrow('FLOWTUNE_NUM_THREADS must be a whole number from 1 to 1024')
  })
})
