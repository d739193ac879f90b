import { readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { basename, join } from 'node:path'
import { describe, expect, it } from 'vitest'
import {
  AutoencoderKLFlux2,
  type Batch,
  type CaptionedImage,
  createPipeline,
  DataLoader,
  type DataLoaderOptions,
  Flux2Transformer,
  inspect,
  loadImage,
  prepare,
  savePng,
  Tensor,
  TextEncoder,
} from '../src/index'
import { filesIn } from './helpers/files'
import { values } from './helpers/model'
import { images, pipeline, temporaryFolder } from './helpers/paths'
import { copyImages, tinyRecipe } from './helpers/recipe'

function open(folder: string, options: Partial<DataLoaderOptions> = {}): Promise<DataLoader> {
  const cacheDir = join(folder, 'cache')
  const train = join(folder, 'images')
  return DataLoader.open({ model: pipeline, train, resolution: 32, textTokens: 32, cacheDir, batchSize: 2, ...options })
}

describe('captions from a table', () => {
  it('are those that a run trains on, with the trigger word', async () => {
    const folder = temporaryFolder()
    const recipe = tinyRecipe(folder, 1)
    const captions = readdirSync(recipe.data.train)
      .filter((name) => name.endsWith('.txt'))
      .map((name) => {
        const file = join(recipe.data.train, name)
        const text = readFileSync(file, 'utf8').trim()
        rmSync(file)
        return { file_name: name.replace('.txt', '.png'), text: `a drawing of [trigger], ${text}` }
      })
    const data = { ...recipe.data, triggerWord: 'ohwx' }
    await expect(prepare({ ...recipe, data })).rejects.toMatchObject({
      message: expect.stringContaining('defaultCaption'),
    })
    const table = join(recipe.data.train, 'metadata.jsonl')
    writeFileSync(table, captions.map((row) => JSON.stringify(row)).join('\n'))
    const one = await prepare({ ...recipe, data })
    expect(one).toMatchObject({ images: captions.length + 2, skipped: [] })
    const two = await prepare({ ...recipe, data: { ...data, train: table, cacheDir: join(folder, 'cache-2') } })
    const texts = (dir: string) => filesIn(dir).map((file) => basename(file))
    expect(texts(join(folder, 'cache-2'))).toEqual(texts(one.cacheDir))
    const plain = { ...data, triggerWord: 'zwx', cacheDir: join(folder, 'cache-3') }
    await prepare({ ...recipe, data: plain })
    expect(texts(plain.cacheDir)).not.toEqual(texts(one.cacheDir))
    expect(two.captions).toBe(one.captions)
  })
})

describe('DataLoader.open', () => {
  it('gives batches that are a function of the seed and their number', async () => {
    const folder = temporaryFolder()
    copyImages(join(folder, 'images'), 0, 6)
    const stages = new Set<string>()
    const loader = await open(folder, { onProgress: ({ stage }) => stages.add(stage) })
    expect(stages).toEqual(new Set(['encoding captions', 'encoding images']))
    expect([loader.samples, loader.batchSize, loader.batchesPerEpoch, loader.heldOut]).toEqual([6, 2, 3, undefined])
    expect(loader.emptyPrompt.shape).toEqual([32, 96])
    const first = await Promise.all([0, 1, 2, 3].map((index) => loader.load(index)))
    expect(first[0]?.batch.imageLatents.shape).toEqual([2, 128, 2, 2])
    expect(first[0]?.batch.textEmbeddings.shape).toEqual([2, 32, 96])
    expect(
      first
        .slice(0, 3)
        .flatMap(({ paths }) => paths)
        .sort(),
    ).toEqual([0, 1, 2, 3, 4, 5].map((i) => join(folder, 'images', `000${i}.png`)))
    for (const { paths, captions } of first) {
      expect(captions).toEqual(paths.map((path) => readFileSync(path.replace('.png', '.txt'), 'utf8').trim()))
    }
    // Again, from the cache, in the middle.
    const entries = filesIn(join(folder, 'cache'))
    const written = entries.map((file) => statSync(join(folder, 'cache', file)).mtimeMs)
    const again = await open(folder)
    expect(entries.map((file) => statSync(join(folder, 'cache', file)).mtimeMs)).toEqual(written)
    expect(values((await again.batch(3)).imageLatents)).toEqual(values(first[3]?.batch.imageLatents))
    const other = await open(folder, { seed: 1 })
    const orders = await Promise.all([loader, other].map(async (each) => (await each.load(0)).paths))
    expect(orders[0]).not.toEqual(orders[1])
    const [gathered] = (await loader.gather([4])).paths
    expect(gathered).toBe(join(folder, 'images', '0004.png'))
  })

  it('iterates from anywhere', async () => {
    const folder = temporaryFolder()
    copyImages(join(folder, 'images'), 0, 3)
    const loader = await open(folder)
    const taken: number[][] = []
    for await (const batch of loader.batches({ start: 2, end: 5 })) taken.push(values(batch.imageLatents))
    expect(taken.length).toBe(3)
    expect(taken[0]).toEqual(values((await loader.batch(2)).imageLatents))
    let count = 0
    for await (const batch of loader) {
      expect(batch.imageLatents.shape[0]).toBe(2)
      if (++count === 10) break
    }
  })

  it('sets images aside', async () => {
    const folder = temporaryFolder()
    copyImages(join(folder, 'images'), 0, 6)
    const { samples, heldOut } = await open(folder, { heldOutCount: 2 })
    expect([samples, heldOut?.samples]).toEqual([4, 2])
  })

  it('names what is wrong', async () => {
    const folder = temporaryFolder()
    await expect(open(folder)).rejects.toMatchObject({ code: 'DATA_UNREADABLE' })
    await expect(open(folder, { resolution: 33 })).rejects.toThrow('`data.resolution` must be a multiple of 16, got 33')
    await expect(open(folder, { model: 'absent' })).rejects.toMatchObject({ code: 'CHECKPOINT_LAYOUT' })
  })
})

describe('DataLoader.from', () => {
  it('encodes files, bytes and pixels as they come, in batches of one size', async () => {
    const [vae, textEncoder] = await Promise.all([AutoencoderKLFlux2.load(pipeline), TextEncoder.load(pipeline)])
    const file = join(images, '0000.png')
    const wide = Tensor.randn([3, 32, 48]).clamp(-1, 1)
    async function* source(): AsyncGenerator<CaptionedImage> {
      yield { image: file, caption: 'one' }
      yield { image: wide, caption: 'two' }
      yield { image: readFileSync(file), caption: 'one' }
      yield { image: await loadImage(file, { width: 32, height: 32 }), caption: '' }
    }
    const batches: Batch[] = []
    for await (const batch of DataLoader.from(source(), {
      vae,
      textEncoder,
      resolution: 32,
      textTokens: 32,
      batchSize: 2,
    })) {
      batches.push(batch)
    }
    expect(batches.map((batch) => batch.imageLatents.shape)).toEqual([
      [2, 128, 2, 2],
      [1, 128, 2, 2],
      [1, 128, 2, 3],
    ])
    const [both, last] = batches as [Batch, Batch]
    const [fromFile, fromBytes] = [0, 1].map((i) => values(both.imageLatents.narrow(0, i, 1)))
    expect(fromBytes).toEqual(fromFile)
    expect(values(last.imageLatents)).toEqual(fromFile)
    expect(values(both.textEmbeddings.narrow(0, 0, 1))).toEqual(values(both.textEmbeddings.narrow(0, 1, 1)))
    expect(values(last.textEmbeddings)).toEqual(values(await textEncoder.encode('', { textTokens: 32 })))
    // What it gives can be trained on.
    const model = await Flux2Transformer.load(pipeline)
    await model.addLora({ rank: 2 })
    const step = await createPipeline('flux2', { useGuidanceEmbeds: model.config.guidance_embeds }).step(model, both)
    expect((await step.loss.backward()).size).toBe(model.trainableParameters.length)
  })

  it('names an image that cannot be read, and pixels of another shape', async () => {
    const [vae, textEncoder] = await Promise.all([AutoencoderKLFlux2.load(pipeline), TextEncoder.load(pipeline)])
    const first = (image: CaptionedImage['image']) =>
      DataLoader.from([{ image, caption: '' }], { vae, textEncoder, resolution: 32 }).next()
    await expect(first('absent.png')).rejects.toThrow(/absent\.png/)
    await expect(first(Uint8Array.of(1, 2, 3))).rejects.toMatchObject({ code: 'DATA_UNREADABLE' })
    await expect(first(Tensor.zeros([4, 32, 32]))).rejects.toThrow(
      'image must have shape [3, height, width], got [4,32,32]',
    )
  })
})

describe('what a script writes', () => {
  it('a LoRA comes back as it was', async () => {
    const folder = temporaryFolder()
    const model = await Flux2Transformer.load(pipeline)
    await expect(model.saveLora(folder)).rejects.toThrow('the model has no adapters to save')
    const parameters = await model.addLora({ rank: 3, alpha: 6, targets: ['to_q', 'linear_in'] })
    for (const parameter of parameters) parameter.assign(Tensor.randn(parameter.shape))
    const file = await model.saveLora(join(folder, 'new', 'lora'))
    expect(inspect(file)).toMatchObject({ kind: 'lora', rank: 3 })
    const other = await Flux2Transformer.load(pipeline)
    const loaded = await other.loadLora(join(folder, 'new', 'lora'))
    expect(loaded.map(({ name }) => name)).toEqual(parameters.map(({ name }) => name))
    loaded.forEach((parameter, i) => {
      expect(values(parameter.tensor)).toEqual(values(parameters[i]?.tensor))
    })
    // The same scale too: alpha / rank.
    const inputs = async () => {
      const flow = createPipeline('flux2', { useGuidanceEmbeds: model.config.guidance_embeds })
      const batch = { imageLatents: Tensor.randn([1, 128, 2, 2]), textEmbeddings: Tensor.randn([1, 4, 96]) }
      return Promise.all([model, other].map(async (each) => values((await flow.step(each, batch)).prediction)))
    }
    const [a, b] = await inputs()
    expect(a).toEqual(b)
    other.removeLora()
    expect((await inputs())[0]).not.toEqual((await inputs())[1])
  })

  it('a whole transformer comes back, in either type', async () => {
    const folder = temporaryFolder()
    const model = await Flux2Transformer.load(pipeline)
    for (const dtype of ['float32', 'bfloat16'] as const) {
      await model.save(join(folder, dtype), { dtype })
      const back = await Flux2Transformer.load(join(folder, dtype))
      expect(back.config).toEqual(model.config)
      const [a, b] = [back, model].map((each) => values(each.parameters[0]?.tensor))
      if (dtype === 'float32') expect(a).toEqual(b)
      else expect(Math.max(...(a ?? []).map((x, i) => Math.abs(x - (b?.[i] ?? 0))))).toBeLessThan(0.01)
    }
  })

  it('an image comes back from its PNG', async () => {
    const path = join(temporaryFolder(), 'image.png')
    const pixels = Tensor.randn([1, 3, 16, 32], { seed: 1 }).mul(0.2).add(0.5).clamp(0, 1)
    await savePng(pixels, path)
    const back = (await loadImage(path, { width: 32, height: 16 })).add(1).mul(0.5)
    const worst = back.sub(pixels.reshape([3, 16, 32])).abs()
    expect(Math.max(...values(worst))).toBeLessThan(1 / 255)
    await expect(savePng(Tensor.zeros([2, 3, 16, 16]), path)).rejects.toMatchObject({ code: 'INVALID_ARGUMENT' })
  })
})
