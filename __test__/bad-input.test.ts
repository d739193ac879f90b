import { cpSync, existsSync, readFileSync, truncateSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, it } from 'vitest'
import { FlowtuneError, train } from '../src/index'
import { cli, documents } from './helpers/cli'
import { contentOf, filesIn } from './helpers/files'
import { pipeline, temporaryFolder } from './helpers/paths'
import { recipeFile, tinyRecipe } from './helpers/recipe'
import { edit, remove } from './helpers/safetensors'

type TinyRecipe = ReturnType<typeof tinyRecipe>

interface Failure {
  code: string
  message: string
}

/** The recipe, and a model folder of its own to damage. */
function prepared(): { recipe: TinyRecipe; folder: string; model: string } {
  const folder = temporaryFolder()
  const model = join(folder, 'model')
  cpSync(pipeline, model, { recursive: true })
  return { recipe: { ...tinyRecipe(folder, 3), model: { path: model } }, folder, model }
}

/** Trains both ways, sees that the command ends with 1 and that nothing of the user's changed; gives the failure. */
async function failureOf(recipe: object, folder: string): Promise<Failure> {
  const file = recipeFile(folder, recipe)
  const inputs = () => ['images', 'held-out', 'model'].map((name) => contentOf(join(folder, name)))
  const before = inputs()
  const result = await cli(['train', file, '--json'])
  expect({ status: result.status, stderr: result.stderr }).toEqual({ status: 1, stderr: '' })
  const { error } = documents<{ error: Failure }>(result).at(-1) ?? { error: { code: '', message: '' } }

  const thrown = await train(recipe as TinyRecipe)
    .then((run) => run.wait())
    .catch((reason) => reason)
  expect(thrown).toBeInstanceOf(FlowtuneError)
  expect(thrown.code).toBe(error.code)
  expect(error.message).toContain(thrown.message)
  expect(inputs()).toEqual(before)
  return error
}

/** A run that did not get to train leaves its recipe and what it said, and no part of a result. */
function expectNoResult(folder: string): void {
  expect(filesIn(join(folder, 'run'))).toEqual(['events.jsonl', 'recipe.yaml'])
  for (const file of existsSync(join(folder, 'cache')) ? filesIn(join(folder, 'cache')) : []) {
    expect(file).toMatch(/^(image_latents|text_embeddings)\/[0-9a-f]{64}\.safetensors$/)
  }
}

const WEIGHTS = {
  transformer: 'transformer/diffusion_pytorch_model.safetensors',
  vae: 'vae/diffusion_pytorch_model.safetensors',
  'text encoder': 'text_encoder/model.safetensors',
}
const TENSORS = [
  [WEIGHTS.transformer, 'single_transformer_blocks.1.attn.to_out.weight'],
  [WEIGHTS.vae, 'encoder.conv_in.weight'],
  [WEIGHTS['text encoder'], 'model.layers.3.mlp.down_proj.weight'],
] as const

describe('a model folder', () => {
  it.each(Object.entries(WEIGHTS))('with truncated weights of the %s', async (_name, file) => {
    const { recipe, folder, model } = prepared()
    const path = join(model, file)
    truncateSync(path, readFileSync(path).length - 1000)
    const { code, message } = await failureOf(recipe, folder)
    expect({ code, message }).toEqual({ code: 'CHECKPOINT_LAYOUT', message: expect.stringContaining(path) })
    expectNoResult(folder)
  })

  it('with weights that are something else', async () => {
    const { recipe, folder, model } = prepared()
    const path = join(model, WEIGHTS.transformer)
    writeFileSync(path, 'version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n')
    const { code, message } = await failureOf(recipe, folder)
    expect({ code, message }).toEqual({ code: 'CHECKPOINT_LAYOUT', message: expect.stringContaining(path) })
    expectNoResult(folder)
  })

  it.each(TENSORS)('where %s lacks %s', async (file, tensor) => {
    const { recipe, folder, model } = prepared()
    remove(join(model, file), tensor)
    const { code, message } = await failureOf(recipe, folder)
    expect({ code, message }).toEqual({ code: 'WEIGHTS_MISSING', message: expect.stringContaining(tensor) })
    expect(message).toContain(join(model, file).replace(/\/[^/]+$/, ''))
    expectNoResult(folder)
  })

  it.each(TENSORS)('where %s has %s in another shape', async (file, tensor) => {
    const { recipe, folder, model } = prepared()
    edit(join(model, file), tensor, (each) => void each.shape.reverse())
    const { code, message } = await failureOf(recipe, folder)
    expect({ code, message }).toEqual({ code: 'SHAPE_MISMATCH', message: expect.stringContaining(tensor) })
    expect(message).toContain(join(model, file).replace(/\/[^/]+$/, ''))
    expectNoResult(folder)
  })

  it('that is not there', async () => {
    const { recipe, folder } = prepared()
    recipe.model.path = join(folder, 'absent')
    const { message } = await failureOf(recipe, folder)
    expect(message).toContain(recipe.model.path)
    expect(existsSync(join(folder, 'run'))).toBe(false)
  })
})

describe('data', () => {
  const badImages: Array<[string, (png: Buffer) => Buffer]> = [
    ['that is no image', () => Buffer.from('not an image')],
    ['that is empty', () => Buffer.alloc(0)],
    ['that was cut off', (png) => png.subarray(0, png.length / 2)],
  ]

  it.each(badImages)('with an image %s', async (_name, damage) => {
    const { recipe, folder } = prepared()
    const image = join(recipe.data.train, '0003.png')
    writeFileSync(image, damage(readFileSync(image)))
    const { code, message } = await failureOf(recipe, folder)
    expect({ code, message }).toEqual({ code: 'DATA_UNREADABLE', message: expect.stringContaining(image) })
    expectNoResult(folder)
  })

  it.each([
    ['an empty', ''],
    ['a blank', ' \n\t'],
  ])('with %s caption', async (_name, caption) => {
    const { recipe, folder } = prepared()
    const file = join(recipe.data.heldOut, '0006.txt')
    writeFileSync(file, caption)
    const { code, message } = await failureOf(recipe, folder)
    expect({ code, message }).toEqual({ code: 'DATA_UNREADABLE', message: expect.stringContaining(file) })
    expectNoResult(folder)
  })

  it('is left out, with a warning, where the recipe says so', async () => {
    const { recipe } = prepared()
    const image = join(recipe.data.train, '0003.png')
    writeFileSync(image, 'not an image')
    const warnings: string[] = []
    const run = await train({ ...recipe, data: { ...recipe.data, onBadFile: 'skip' } })
    for await (const event of run) if (event.type === 'warning') warnings.push(`${event.code} ${event.message}`)
    expect(warnings).toEqual([expect.stringMatching(/^DATA_UNREADABLE /)])
    expect(warnings[0]).toContain(image)
    expect(await run.wait()).toMatchObject({ steps: 3 })
  })
})

describe('a recipe', () => {
  const changes: Array<[string, (recipe: TinyRecipe) => object, RegExp]> = [
    ['an unknown section', (recipe) => ({ ...recipe, optimiser: {} }), /`optimiser`.*`optimizer`/],
    [
      'an unknown key',
      (recipe) => ({ ...recipe, train: { ...recipe.train, batchSise: 2 } }),
      /`train\.batchSise`.*`train\.batchSize`/,
    ],
    ['a negative rank', (recipe) => ({ ...recipe, lora: { rank: -4 } }), /`lora\.rank`.*-4/],
  ]

  it.each(changes)('with %s', async (_name, change, message) => {
    const { recipe, folder } = prepared()
    expect(await failureOf(change(recipe), folder)).toEqual({
      code: 'RECIPE_INVALID',
      message: expect.stringMatching(message),
    })
    expect(existsSync(join(folder, 'run'))).toBe(false)
  })
})
