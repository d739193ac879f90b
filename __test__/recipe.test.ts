import { existsSync, readdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, it } from 'vitest'
import { type DataSource, loadRecipe, type Recipe, resolveRecipe, type ValidationPrompt } from '../src/index'
import { root, temporaryFolder } from './helpers/paths'

const MINIMAL = { model: { path: 'model' }, data: { train: 'images' }, train: { steps: 10 } }

function recipeFile(text: string): string {
  const path = join(temporaryFolder(), 'recipe.yaml')
  writeFileSync(path, text)
  return path
}

describe('resolveRecipe', () => {
  it('fills in the defaults and makes paths absolute', () => {
    const recipe = resolveRecipe(MINIMAL, '/base')
    expect(recipe.model.path).toBe(join('/base', 'model'))
    expect([recipe.data.train].flat()).toEqual([join('/base', 'images')])
    expect(recipe).toMatchObject({
      mode: 'lora',
      lora: { rank: 16, alpha: 16 },
      optimizer: { type: 'adamw', lr: 1e-4 },
      flowMatching: { timestepSampling: 'logit_normal', flowShift: 'dynamic', captionDropout: 0.05 },
    })
  })

  it('leaves a resolved recipe as it is', () => {
    const resolved = resolveRecipe(MINIMAL, '/base')
    expect(resolveRecipe(resolved, '/elsewhere')).toEqual(resolved)
  })

  it.each([
    [{ ...MINIMAL, optimiser: {} }, /`optimiser`.*`optimizer`/],
    [{ ...MINIMAL, train: { steps: 1, batchSise: 2 } }, /`train\.batchSise`.*`train\.batchSize`/],
    [{ ...MINIMAL, lora: { rank: -4 } }, /`lora\.rank`.*-4/],
    [{ ...MINIMAL, mode: 'lore' }, /`mode`.*lora/],
    [{ ...MINIMAL, model: {} }, /`model\.path`/],
  ])('refuses %j', (recipe, message) => {
    expect(() => resolveRecipe(recipe)).toThrow(message)
    expect(() => resolveRecipe(recipe)).toThrow(expect.objectContaining({ code: 'RECIPE_INVALID' }))
  })
})

describe('loadRecipe', () => {
  it('takes paths from the folder of the file', async () => {
    const path = recipeFile('model:\n  path: model\ndata:\n  train: images\ntrain:\n  steps: 3\n')
    const recipe = await loadRecipe(path)
    expect(recipe.model.path).toBe(join(path, '..', 'model'))
    expect(recipe.train.steps).toBe(3)
  })

  it('names file and line of broken YAML', async () => {
    const path = recipeFile('model:\n  path: "unclosed\n')
    const error = await loadRecipe(path).catch((thrown) => thrown)
    expect(error).toMatchObject({ code: 'RECIPE_INVALID' })
    expect(error.message).toMatch(/recipe\.yaml:[23]: /)
  })

  it('names file and line of a wrong key', async () => {
    const path = recipeFile('model:\n  path: model\ndata:\n  train: images\ntrain:\n  steps: 3\n  batchSise: 2\n')
    const error = await loadRecipe(path).catch((thrown) => thrown)
    expect(error).toMatchObject({ code: 'RECIPE_INVALID' })
    expect(error.message).toContain(`${path}:7: `)
    expect(error.message).toContain('batchSize')
  })

  it('names the line of the parent when a key is missing', async () => {
    const path = recipeFile('model:\n  path: model\ndata:\n  resolution: 64\ntrain:\n  steps: 3\n')
    await expect(loadRecipe(path)).rejects.toThrow(`${path}:3: `)
  })

  it.each(readdirSync(join(root, 'recipes')))('reads recipes/%s, whose folders are there', async (file) => {
    const { model, data } = await loadRecipe(join(root, 'recipes', file))
    for (const source of [model.path, data.train, data.heldOut ?? []].flat()) {
      expect(existsSync(typeof source === 'string' ? source : source.path)).toBe(true)
    }
  })

  it('says that a file is not there', async () => {
    await expect(loadRecipe('absent.yaml')).rejects.toMatchObject({ code: 'IO' })
  })
})

/** Every value of the keys that have a few. */
const ENUMS = {
  'model.dtype': ['float32', 'bfloat16'],
  'model.quantization': ['none', 'int8', 'nf4'],
  'model.offload': ['auto', 'none', 'blocks'],
  'data.onBadFile': ['fail', 'skip'],
  'flowMatching.timestepSampling': ['uniform', 'logit_normal', 'lognorm', 'mode', 'mix', 'beta'],
  'flowMatching.lossWeighting': ['none', 'linear', 'bsmntw'],
  'flowMatching.captionDropoutMode': ['empty_prompt', 'zero'],
  'flowMatching.flowShift': ['dynamic', 'linear', 'sqrt', 3],
  'optimizer.type': ['adamw'],
  'lrSchedule.type': ['cosine', 'linear', 'constant'],
  'output.weightsDtype': ['float32', 'bfloat16'],
}

// `repeats` and `weight` exclude each other: see the test of Rust.
const SOURCE: Omit<Required<DataSource>, 'weight'> = {
  path: '/more',
  masks: '/masks',
  references: ['/first', '/second'],
  repeats: 2,
}
const PROMPT: Required<ValidationPrompt> = { prompt: 'b', references: ['/b.png'] }

/** Every key that TypeScript knows; `tsc` refuses a key too many and one too few. */
const EVERY_KEY: { [Section in keyof Recipe]-?: Required<NonNullable<Recipe[Section]>> } = {
  model: {
    path: 'black-forest-labs/FLUX.2-klein-base-4B',
    revision: 'v1',
    transformer: '/flux2.gguf',
    allowDistilled: true,
    dtype: 'bfloat16',
    quantization: 'none',
    offload: 'auto',
  },
  data: {
    train: ['/images', SOURCE],
    heldOut: ['/held-out'],
    heldOutCount: 2,
    resolution: [64, 128],
    buckets: false,
    triggerWord: 'ohwx',
    defaultCaption: 'a photo',
    captionPerLine: true,
    cacheDir: '/cache',
    onBadFile: 'skip',
    textTokens: 32,
  },
  mode: 'full',
  lora: { rank: 2, alpha: 3, targets: ['to_q'], from: '/lora.safetensors' },
  flowMatching: {
    timestepSampling: 'mix',
    logitMean: 0.1,
    logitStd: 0.9,
    betaAlpha: 2,
    betaBeta: 3,
    flowShift: 3,
    sigmaMin: 0.1,
    sigmaMax: 0.9,
    mixUniformRatio: 0.1,
    useSigmaNoise: false,
    lossWeighting: 'bsmntw',
    guidanceScale: 3.5,
    captionDropout: 0.1,
    captionDropoutMode: 'zero',
    maxLoss: 10,
  },
  optimizer: { type: 'adamw', lr: 0.1, beta1: 0.8, beta2: 0.9, eps: 1e-6, weightDecay: 0.1 },
  lrSchedule: { type: 'linear', warmupSteps: 2, minLrRatio: 0.1 },
  train: {
    steps: 10,
    batchSize: 2,
    gradientAccumulation: 3,
    maxGradNorm: 2,
    seed: 5,
    activationCheckpointing: false,
    memoryBudget: 8,
    allowOverMemory: true,
  },
  checkpoint: { everySteps: 3, keep: 4 },
  validation: {
    prompts: ['a', PROMPT],
    everySteps: 5,
    sigmas: [0.5],
    sampleSteps: 4,
    sampleGuidance: 1,
    sampleSeed: 9,
  },
  output: { dir: '/run', weightsDtype: 'bfloat16' },
}

describe('the schema', () => {
  // `heldOut` and `heldOutCount` exclude each other.
  const { heldOut: _, ...data } = EVERY_KEY.data
  const { heldOutCount: __, ...otherData } = EVERY_KEY.data

  it.each([data, otherData])('has the same keys in Rust and in TypeScript', (data) => {
    const recipe = { ...EVERY_KEY, data }
    expect(resolveRecipe(recipe)).toEqual(recipe)
  })

  it.each(Object.entries(ENUMS))('knows the values of %s', (key, values) => {
    const [section, name] = key.split('.') as [string, string]
    for (const value of values) {
      const recipe = resolveRecipe({ ...MINIMAL, [section]: { ...MINIMAL[section as 'data'], [name]: value } })
      expect(recipe).toMatchObject({ [section]: { [name]: value } })
    }
  })
})
