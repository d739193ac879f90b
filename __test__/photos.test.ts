import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, it } from 'vitest'
import {
  type Batch,
  createPipeline,
  DataLoader,
  Flux2Transformer,
  type PrepareSummary,
  type Recipe,
  type TrainSummary,
  train,
} from '../src/index'
import { cli, documents } from './helpers/cli'
import { fixtures, root, temporaryFolder } from './helpers/paths'
import { recipeFile } from './helpers/recipe'

const photos = join(fixtures, 'photos')
/** Photographs in every form of file: their masks, and sketches of them as references. */
const SOURCE = { path: photos, masks: join(photos, 'masks'), references: join(photos, 'sketches') }

/** Learns to paint sketches: the embedded model, two resolutions, aspect buckets. */
function photoRecipe(folder: string) {
  return {
    model: { path: join(root, 'models', 'flux2-tiny') },
    data: {
      train: SOURCE,
      heldOutCount: 1,
      resolution: [64, 96],
      captionPerLine: true,
      triggerWord: 'photo',
      cacheDir: join(folder, 'cache'),
      textTokens: 32,
    },
    lora: { rank: 4 },
    train: { steps: 3, batchSize: 2, seed: 3 },
    validation: {
      prompts: [{ prompt: '[trigger] of a cat', references: join(SOURCE.references, 'cat.png') }],
      sigmas: [0.5],
      sampleSteps: 2,
    },
    output: { dir: join(folder, 'run') },
  } satisfies Recipe
}

describe('photographs', () => {
  it('go through prepare, train and export at two resolutions, with masks and references', async () => {
    const folder = temporaryFolder()
    const recipe = recipeFile(folder, photoRecipe(folder))
    const prepared = await cli(['prepare', recipe, '--json'])
    expect(prepared).toMatchObject({ status: 0, stderr: '' })
    const summary = documents<PrepareSummary>(prepared).at(-1)
    // Seven photographs with eight captions, a prompt and the empty one.
    expect(summary).toMatchObject({ images: 7, captions: 10, masks: 3, references: 7, skipped: [] })
    expect(summary?.buckets.reduce((sum, bucket) => sum + bucket.images, 0)).toBe(14)
    expect(summary?.buckets.map(({ width, height }) => [width, height])).toContainEqual([64, 64])
    expect(summary?.buckets.map(({ width, height }) => [width, height])).toContainEqual([96, 96])
    expect(summary?.buckets.some(({ width, height }) => width > height)).toBe(true)

    const trained = await cli(['train', recipe, '--json'])
    expect(trained).toMatchObject({ status: 0, stderr: '' })
    const { runDir, evaluationAfter, samplesAfter } = documents<TrainSummary>(trained).at(-1) as TrainSummary
    expect(evaluationAfter).toBeGreaterThan(0)
    expect(samplesAfter).toHaveLength(1)
    const out = join(folder, 'lora.safetensors')
    expect(await cli(['export', runDir, '--format', 'comfyui', '--out', out])).toMatchObject({ status: 0 })
    expect(readFileSync(out).length).toBeGreaterThan(100_000)
  })

  it('come in batches of one shape, with masks of the latents and the references of each', async () => {
    const folder = temporaryFolder()
    const { model, data } = photoRecipe(folder)
    const loader = await DataLoader.open({ ...data, model: model.path, heldOutCount: undefined, batchSize: 2 })
    expect(loader.samples).toBe(14)
    const seen: string[] = []
    const captions = new Set<string>()
    for (let index = 0; index < 28; index += 1) {
      const loaded = await loader.load(index)
      const { imageLatents, lossMask, references = [] } = loaded.batch
      expect(references.map((list) => list.length)).toEqual([1, 1])
      expect(references[0]?.[0]?.shape).toEqual(references[1]?.[0]?.shape)
      const masked = loaded.paths.some((path) => /astronaut|cat\.|coffee/.test(path))
      expect(lossMask?.shape).toEqual(masked ? [2, 1, ...imageLatents.shape.slice(2)] : undefined)
      // White in the middle, black in the corners.
      if (lossMask) expect(extent(lossMask.toFloat32Array())).toEqual([expect.closeTo(0, 0), 1])
      seen.push(...loaded.paths)
      for (const caption of loaded.captions) captions.add(caption)
    }
    // Two cycles of 14 batches of 2 samples; each photograph is two samples.
    expect(new Set(seen).size).toBe(7)
    for (const photo of seen) expect(seen.filter((path) => path === photo)).toHaveLength(8)
    expect(captions.size).toBe(8)
    expect([...captions].every((caption) => caption.includes('photo'))).toBe(true)
  })
})

describe('what belongs to a photograph', () => {
  it('counts in the loss: the mask and the references of a batch each change it', async () => {
    const { model, data } = photoRecipe(temporaryFolder())
    const options = { ...data, model: model.path, heldOutCount: undefined }
    const loader = await DataLoader.open(options)
    const transformer = await Flux2Transformer.load(model.path)
    const pipeline = createPipeline('flux2', { useGuidanceEmbeds: false }, { cfgDropoutProb: 0 })
    const masked = await Promise.all(Array.from({ length: loader.samples }, (_, index) => loader.gather([index])))
    const whole = masked.find(({ batch }) => batch.lossMask !== undefined)?.batch
    if (!whole) throw new Error('no photograph has a mask')
    const loss = async (batch: Batch) => (await pipeline.step(transformer, batch, { seed: 5, step: 0 })).metrics.loss
    const [all, again, unmasked, alone] = [
      await loss(whole),
      await loss(whole),
      await loss({ ...whole, lossMask: undefined }),
      await loss({ ...whole, references: undefined }),
    ]
    expect(again).toBe(all)
    // The embedded model has never seen a reference; that it looks at one shows in more than rounding.
    expect(Math.abs(unmasked - all) / all).toBeGreaterThan(1e-3)
    expect(Math.abs(alone - all) / all).toBeGreaterThan(1e-3)
  })
})

describe('a run', () => {
  it('shows its validation prompts with their references', async () => {
    const sample = async (references?: string) => {
      const folder = temporaryFolder()
      const recipe = photoRecipe(folder)
      const prompts = [{ prompt: 'a cat', ...(references && { references: join(SOURCE.references, references) }) }]
      const run = await train({
        ...recipe,
        data: { ...recipe.data, cacheDir },
        train: { ...recipe.train, steps: 1 },
        validation: { ...recipe.validation, prompts },
      })
      const { samplesAfter } = await run.wait()
      return readFileSync(samplesAfter?.[0] as string)
    }
    const cacheDir = join(temporaryFolder(), 'cache')
    const [cat, again, rocket, none] = [
      await sample('cat.png'),
      await sample('cat.png'),
      await sample('rocket.png'),
      await sample(),
    ]
    expect(again.equals(cat)).toBe(true)
    expect(rocket.equals(cat)).toBe(false)
    expect(none.equals(cat)).toBe(false)
  })
})

function extent(values: Float32Array): [number, number] {
  return [Math.min(...values), Math.max(...values)]
}
