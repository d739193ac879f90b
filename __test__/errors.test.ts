import { describe, expect, it } from 'vitest'
import {
  AdamW,
  type Batch,
  type FlowMatchingContext,
  FlowMatchingPipeline,
  FlowtuneError,
  Flux2Adapter,
  Flux2Transformer,
  inspect,
  LrSchedule,
  resolveRecipe,
  type StepOptions,
  sample,
  Tensor,
  train,
} from '../src/index'
import { addLora, tinyBatch, tinyModel } from './helpers/model'
import { temporaryFolder } from './helpers/paths'

describe('FlowtuneError', () => {
  it('keeps the code of what it is made from', () => {
    const cause = Object.assign(new Error('no space left'), { code: 'ENOSPC' })
    const error = FlowtuneError.from(cause)
    expect(error).toMatchObject({ name: 'FlowtuneError', code: 'IO', message: 'no space left', cause })
    expect(FlowtuneError.from(error)).toBe(error)
  })

  it('calls what has no code INTERNAL', () => {
    expect(FlowtuneError.from('broken')).toMatchObject({ code: 'INTERNAL', message: 'broken' })
    expect(FlowtuneError.from(undefined)).toMatchObject({ code: 'INTERNAL' })
  })
})

describe('errors of the core', () => {
  it('are FlowtuneErrors with a code when thrown at once', () => {
    const shape = () => Tensor.fromFloat32([1, 2, 3], [2, 2])
    expect(shape).toThrow(FlowtuneError)
    expect(shape).toThrow(expect.objectContaining({ code: 'SHAPE_MISMATCH' }))
    expect(() => resolveRecipe([])).toThrow(expect.objectContaining({ code: 'RECIPE_INVALID' }))
  })

  it('name a path that is not there', () => {
    const path = `${temporaryFolder()}/absent`
    expect(() => inspect(path)).toThrow(FlowtuneError)
    expect(() => inspect(path)).toThrow(path)
  })

  it('reject the promise of work', async () => {
    const folder = temporaryFolder()
    const request = { model: `${folder}/absent`, prompt: 'x', width: 64, height: 64, out: `${folder}/x.png` }
    const error = await sample(request).catch((thrown) => thrown)
    expect(error).toBeInstanceOf(FlowtuneError)
    expect(error.message).toContain(`${folder}/absent`)
  })

  it('come before a run starts when the recipe is wrong', async () => {
    const recipe = { model: { path: 'm' }, data: { train: 'd' }, train: { steps: -1 } }
    await expect(train(recipe)).rejects.toMatchObject({ code: 'RECIPE_INVALID' })
  })
})

describe('a transformer’s config', () => {
  it('is refused with a key that would leave FLUX.2 dev’s size in its place', async () => {
    await expect(Flux2Transformer.fromConfig({ num_layer: 1 } as object)).rejects.toMatchObject({
      code: 'RECIPE_INVALID',
      message: "`num_layer` is not a key of a transformer's config; did you mean `num_layers`?",
    })
  })
})

describe('options', () => {
  const make = (options: object) => () => new FlowMatchingPipeline(new Flux2Adapter(), options)

  it.each<[object, string]>([
    [
      { timestepSampling: 'logitNormal' },
      '`timestepSampling` must be one of uniform, logit_normal, lognorm, mode, mix, beta, got "logitNormal" (did you mean "logit_normal"?)',
    ],
    [{ timestepSampler: 'mode' }, '`timestepSampler` is not a recipe key; did you mean `timestepSampling`?'],
    [{ logitStd: -1 }, '`logitStd` must be above 0, got -1'],
    [{ flowShift: 'cubic' }, '`flowShift` must be a number, "dynamic", "linear" or "sqrt"'],
    [{ flowShift: 0 }, '`flowShift` must be above 0, got 0'],
    [{ mixUniformRatio: 1.5 }, '`mixUniformRatio` must be at least 0 and at most 1, got 1.5'],
    [{ cfgDropoutProb: -0.1 }, '`cfgDropoutProb` must be at least 0 and at most 1, got -0.1'],
    [{ sigmaMin: 0.9, sigmaMax: 0.1 }, '`sigmaMin` must be below `sigmaMax` (0.1), got 0.9'],
    [{ useSigmaNoise: 'yes' }, '`useSigmaNoise` must be a boolean, got string "yes"'],
    [{ lossWeighting: 'square' }, '`lossWeighting` must be one of none, linear, bsmntw, got "square"'],
  ])('%o', (options, message) => {
    expect(make(options)).toThrow(expect.objectContaining({ code: 'RECIPE_INVALID' }))
    expect(make(options)).toThrow(message)
  })

  it('of optimizer, schedule and LoRA', async () => {
    const model = await tinyModel()
    expect(() => new AdamW([], { beta1: 1 })).toThrow('`beta1` must be at least 0 and below 1, got 1')
    const schedule = () => new LrSchedule({ type: 'square' as 'linear', lr: 1, totalSteps: 10 })
    expect(schedule).toThrow('`type` must be one of cosine, linear, constant, got "square"')
    await expect(model.addLora({ rank: 0 })).rejects.toThrow('`rank` must be a whole number, at least 1, got 0')
    await expect(model.addLora({ targets: ['to_x'] })).rejects.toThrow('to_x is no linear layer of this model')
  })

  it('but not of default targets in a model with one kind of block', async () => {
    const model = await tinyModel({ num_single_layers: 0 })
    await expect(model.addLora({ rank: 2 })).resolves.toHaveLength(2 * 12)
    await expect(model.addLora({ targets: ['to_qkv_mlp_proj'] })).rejects.toThrow('to_qkv_mlp_proj is no linear layer')
  })
})

describe('a step', () => {
  const tall = () => Tensor.zeros([2, 8, 3, 3])

  it.each<[string, object, StepOptions, string, string]>([
    [
      'a key in snake case',
      { image_latents: tall() },
      {},
      'RECIPE_INVALID',
      'batch.image_latents is no key that the adapter knows (imageLatents, textEmbeddings',
    ],
    [
      'latents that are none',
      { imageLatents: [1, 2] },
      {},
      'RECIPE_INVALID',
      'batch.imageLatents must be a Tensor [batch, 128, height/16, width/16], got a Array',
    ],
    [
      'no embeddings',
      { textEmbeddings: undefined },
      {},
      'RECIPE_INVALID',
      'batch.textEmbeddings must be a Tensor [batch, tokens, dim], got undefined',
    ],
    [
      'latents of rank 3',
      { imageLatents: Tensor.zeros([2, 8, 6]) },
      {},
      'SHAPE_MISMATCH',
      'batch.imageLatents must have shape [batch, 128, h, w] (rank 4, not 3), but has [2, 8, 6]',
    ],
    [
      'latents of float64',
      { imageLatents: tall().to('float64') },
      {},
      'SHAPE_MISMATCH',
      'batch.imageLatents: expected dtype float32, got float64',
    ],
    [
      'embeddings of other samples',
      { textEmbeddings: Tensor.zeros([3, 4, 6]) },
      {},
      'SHAPE_MISMATCH',
      'batch.textEmbeddings must have shape [2, tokens, dim], but has [3, 4, 6]',
    ],
    [
      'embeddings of another width',
      { textEmbeddings: Tensor.zeros([2, 4, 7]) },
      {},
      'SHAPE_MISMATCH',
      'weight must have shape [out, 7], but has [16, 6]',
    ],
    [
      'latents of other channels',
      { imageLatents: Tensor.zeros([2, 9, 3, 2]) },
      {},
      'SHAPE_MISMATCH',
      'weight must have shape [out, 9], but has [16, 8]',
    ],
    [
      'a mask of another size',
      { lossMask: tall() },
      {},
      'SHAPE_MISMATCH',
      'batch.lossMask must have shape [2 or 1, 8 or 1, 3, 2], but has [2, 8, 3, 3]',
    ],
    [
      'a mask that leaves nothing',
      { lossMask: Tensor.zeros([1, 1, 3, 2]) },
      {},
      'SHAPE_MISMATCH',
      'batch.lossMask must have shape [2 or 1, 8 or 1, 3, 2] with at least one element that is not 0, but has [1, 1, 3, 2]',
    ],
    [
      'guidance of other samples',
      { guidance: Tensor.zeros([3]) },
      {},
      'SHAPE_MISMATCH',
      'batch.guidance must have shape [2], but has [3]',
    ],
    [
      'σ of other samples',
      {},
      { sigma: Tensor.zeros([1]) },
      'SHAPE_MISMATCH',
      'sigma must have shape [2], but has [1]',
    ],
    [
      'σ above 1',
      {},
      { sigma: Tensor.fromFloat32([0.5, 500], [2]) },
      'RECIPE_INVALID',
      'sigma must be in 0..1, got 500',
    ],
    [
      'noise of another size',
      {},
      { noise: tall() },
      'SHAPE_MISMATCH',
      'noise must have shape [2, 8, 3, 2], but has [2, 8, 3, 3]',
    ],
  ])('refuses %s', async (_, change, options, code, message) => {
    const model = await tinyModel()
    const parameters = await addLora(model)
    const before = parameters.map((parameter) => parameter.tensor.toFloat32Array())
    const pipeline = new FlowMatchingPipeline(new Flux2Adapter({ useGuidanceEmbeds: false }))
    const batch = { ...tinyBatch(), ...change } as Batch
    const error = await pipeline.step(model, batch, options).catch((thrown) => thrown)
    expect(error).toBeInstanceOf(FlowtuneError)
    expect(error.message).toContain(message)
    expect(error.code).toBe(code)
    expect(parameters.map((parameter) => parameter.tensor.toFloat32Array())).toEqual(before)
  })

  it.each<[string, unknown, string, string]>([
    ['no tensor', 3, 'RECIPE_INVALID', 'prediction of postProcessPrediction or forward must be a Tensor, got number 3'],
    [
      'another shape',
      Tensor.zeros([2, 8, 3, 3]),
      'SHAPE_MISMATCH',
      'prediction must have shape [2, 8, 3, 2], but has [2, 8, 3, 3]',
    ],
  ])('refuses a prediction that is %s', async (_, prediction, code, message) => {
    class Odd extends Flux2Adapter {
      override async forward(_model: Flux2Transformer, _inputs: unknown, _context: FlowMatchingContext) {
        return prediction as Tensor<4>
      }
    }
    const step = new FlowMatchingPipeline(new Odd()).step(await tinyModel(), tinyBatch())
    await expect(step).rejects.toMatchObject({ code, message: expect.stringContaining(message) })
  })
})
