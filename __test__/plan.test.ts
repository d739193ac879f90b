import { cpSync, existsSync, readdirSync, readFileSync, statSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { pathToFileURL } from 'node:url'
import { describe, expect, it } from 'vitest'
import { type MemoryPhase, type Plan, plan, prepare, type Recipe, train } from '../src/index'
import { cli, documents } from './helpers/cli'
import { pipeline, root, temporaryFolder } from './helpers/paths'
import { recipeFile, tinyRecipe } from './helpers/recipe'

const { GEOMETRIES, writeHollow } = await import(pathToFileURL(join(root, 'bench', 'hollow.mjs')).href)

/** A recipe of klein's transformer as published, with holes for weights, beside the small VAE and text encoder. */
function kleinRecipe(size: '4B' | '9B', folder = temporaryFolder()): Recipe {
  const transformer = join(folder, `klein-${size}.safetensors`)
  writeHollow(transformer, GEOMETRIES[`klein-${size}`])
  return {
    ...tinyRecipe(folder, 30),
    model: { path: pipeline, transformer, dtype: 'bfloat16' },
    data: { ...tinyRecipe(folder, 30).data, resolution: 512, textTokens: 512 },
    train: { steps: 30 },
  }
}

function phase({ memory }: Plan, name: MemoryPhase['name']): MemoryPhase {
  const found = memory.phases.find((each) => each.name === name)
  if (!found) throw new Error(`no phase ${name}`)
  return found
}

function bytes(of: MemoryPhase, component: MemoryPhase['components'][number]['component']): number {
  return of.components.find((each) => each.component === component)?.bytes ?? 0
}

describe('flowtune plan', () => {
  it('tells people what a run takes', async () => {
    const { status, stdout } = await cli(['plan', join(root, 'recipes', 'quickstart.yaml')])
    expect(status).toBe(0)
    expect(stdout).toMatch(/^memory: [\d.]+ MB at most, for training, within the [\d.]+ GB that it may take$/m)
    expect(stdout).toMatch(/^ {2}encoding +[\d.]+ MB/m)
    expect(stdout).toMatch(/^ {4}activations +[\d.]+ MB {2}█+$/m)
    expect(stdout).toMatch(/^disk: cache +[\d.]+ MB, [\d.]+ GB free there$/m)
    expect(stdout).toMatch(/^time: about [\d.]+ m?s a step/m)
    expect(Math.max(...stdout.split('\n').map((line) => [...line].length))).toBeLessThanOrEqual(100)
  })

  it('tells machines; parts add up to the whole', async () => {
    const folder = temporaryFolder()
    const [told] = documents<Plan>(await cli(['plan', recipeFile(folder, tinyRecipe(folder, 30)), '--json']))
    if (!told) throw new Error('no plan')
    for (const { peak, components } of told.memory.phases) {
      expect(components.reduce((sum, each) => sum + each.bytes, 0)).toBe(peak)
    }
    expect(told.memory.phases.map(({ name }) => name)).toEqual(['encode', 'train', 'sample'])
    expect(told.memory.peak).toBe(Math.max(...told.memory.phases.map(({ peak }) => peak)))
    expect(told.memory.fits).toBe(true)
    expect(told.switches).toEqual([])
    expect(told.time?.step).toBeGreaterThan(0)
    expect(told.images).toBe(6)
  })

  it('foretells the size of the cache, and counts no encoding once it is there', async () => {
    const recipe = tinyRecipe(temporaryFolder(), 30)
    const before = await plan(recipe, { noTime: true })
    expect(phase(before, 'encode').needed).toBe(true)
    await prepare(recipe)
    const after = await plan(recipe, { noTime: true })
    expect(phase(after, 'encode').needed).toBe(false)
    expect(after.notes.join()).toContain('encoding is not counted')
    const files = readdirSync(recipe.data.cacheDir, { recursive: true, withFileTypes: true }).filter((f) => f.isFile())
    const written = files.reduce((sum, file) => sum + statSync(join(file.parentPath, file.name)).size, 0)
    expect(Math.abs((before.disk.cache ?? 0) / written - 1)).toBeLessThan(0.02)
  })

  it('names what is wrong', async () => {
    const folder = temporaryFolder()
    const file = recipeFile(folder, { ...tinyRecipe(folder, 30), model: { path: join(folder, 'nothing') } })
    expect(await cli(['plan', file])).toMatchObject({ status: 1, stderr: expect.stringContaining('CHECKPOINT_LAYOUT') })
    expect((await cli(['plan', file, '--memory', '0'])).status).toBe(2)
  })
})

describe('a plan from headers alone', () => {
  const sizes = { noTime: true }

  it('knows what each setting saves', async () => {
    const recipe = kleinRecipe('4B')
    const of = async (changes: Partial<Recipe>) => phase(await plan({ ...recipe, ...changes }, sizes), 'train')
    const base = await of({})
    // 3.88 billion numbers in two bytes each.
    expect(bytes(base, 'transformer') / 1e9).toBeCloseTo(7.75, 1)
    const int8 = await of({ model: { ...recipe.model, quantization: 'int8' } })
    expect(bytes(int8, 'transformer')).toBeLessThan(0.6 * bytes(base, 'transformer'))
    const nf4 = await of({ model: { ...recipe.model, quantization: 'nf4' } })
    expect(bytes(nf4, 'transformer')).toBeLessThan(0.35 * bytes(base, 'transformer'))
    const batch = await of({ train: { steps: 30, batchSize: 2 } })
    expect(bytes(batch, 'activations') / bytes(base, 'activations')).toBeCloseTo(2, 1)
    const kept = await of({ train: { steps: 30, activationCheckpointing: false } })
    expect(kept.peak).toBeGreaterThan(base.peak + 1e9)
    const budget = await of({ train: { steps: 30, memoryBudget: 11 } })
    expect(budget.peak).toBeLessThan(kept.peak)
    expect(budget.peak).toBeGreaterThan(base.peak)
    const full = await of({ mode: 'full' })
    // Weights, gradients and two moments of four bytes each.
    expect(full.peak / 1e9).toBeGreaterThan(16 * 3.87)
  })

  it('recommends what costs time alone before what changes the result', async () => {
    const recipe = { ...kleinRecipe('4B'), train: { steps: 30, batchSize: 2, activationCheckpointing: false } }
    const kept = phase(await plan(recipe, sizes), 'train').peak
    const keys = ['train.activationCheckpointing', 'train.memoryBudget']
    // Where a little is missing, what is cheap is computed twice; where more is, some blocks are, not all.
    for (const [missing, least, most] of [
      [2e9, 1, 1],
      [4e9, 1.01, 1.3],
    ] as const) {
      const memory = (kept - missing) / 1e9
      const { switches, recommended } = await plan(recipe, { ...sizes, memory })
      if (!recommended) throw new Error('nothing recommended')
      expect(recommended.settings.map(({ key }) => key)).toEqual(keys)
      expect(recommended.settings[1]?.value).toBeLessThanOrEqual(memory)
      expect(recommended.peak).toBeLessThanOrEqual(memory * 1e9)
      expect(recommended.time).toBeGreaterThanOrEqual(least)
      expect(recommended.time).toBeLessThanOrEqual(most)
      expect(switches[0]).toEqual(recommended)
      const settings = Object.fromEntries(recommended.settings.map(({ key, value }) => [key.split('.')[1], value]))
      const followed = await plan({ ...recipe, train: { ...recipe.train, ...settings } }, { ...sizes, memory })
      expect(followed.memory).toMatchObject({ fits: true, peak: recommended.peak })
    }
  })

  it('says of klein-9B that bfloat16 is too large where int8 fits', async () => {
    const recipe = kleinRecipe('9B')
    const { memory, switches, recommended } = await plan(recipe, { ...sizes, memory: 16 })
    expect(memory.fits).toBe(false)
    expect(recommended).toMatchObject({ settings: [{ key: 'model.quantization', value: 'int8' }], fits: true })
    expect(switches.every(({ fits, peak }) => fits === peak <= 16e9)).toBe(true)
    const quantised = await plan(
      { ...recipe, model: { ...recipe.model, quantization: 'int8' } },
      { ...sizes, memory: 16 },
    )
    expect(quantised.memory.fits).toBe(true)
    expect(quantised.memory.peak).toBe(recommended?.peak)
    const file = recipeFile(temporaryFolder(), recipe)
    const { status, stdout } = await cli(['plan', file, '--memory', '16'])
    expect(status).toBe(0)
    expect(stdout).toContain('MORE THAN the 16.0 GB')
    expect(stdout).toMatch(/recommended, [\d.]+ GB and [\d.]+ × the time:\n\n {2}model:\n {4}quantization: int8\n/)
  })

  it('says where to encode when the text encoder is what does not fit', async () => {
    const folder = temporaryFolder()
    const model = join(folder, 'pipeline')
    cpSync(pipeline, model, { recursive: true })
    const config = JSON.parse(readFileSync(join(model, 'text_encoder', 'config.json'), 'utf8'))
    const qwen3 = { vocab_size: 151936, hidden_size: 4096, intermediate_size: 12288, num_hidden_layers: 36 }
    const heads = { num_attention_heads: 32, num_key_value_heads: 8, head_dim: 128 }
    writeFileSync(join(model, 'text_encoder', 'config.json'), JSON.stringify({ ...config, ...qwen3, ...heads }))
    const recipe = kleinRecipe('9B', folder)
    const quantised = { ...recipe, model: { ...recipe.model, path: model, quantization: 'int8' as const } }
    const { memory, notes, switches } = await plan(quantised, { ...sizes, memory: 16 })
    expect(memory).toMatchObject({ phase: 'encode', fits: false })
    expect(memory.peak / 1e9).toBeGreaterThan(23)
    expect(switches).toEqual([])
    expect(notes.join()).toMatch(/flowtune prepare.*cacheDir/)
  })
})

describe('train', () => {
  it('refuses what cannot fit before it loads, and says what to switch', async () => {
    const folder = temporaryFolder()
    const recipe: Recipe = tinyRecipe(folder, 30)
    recipe.data.resolution = 4096
    recipe.train = { steps: 30, batchSize: 100_000 }
    const started = performance.now()
    const refused = await (await train(recipe)).wait().catch((thrown) => thrown)
    expect(performance.now() - started).toBeLessThan(2000)
    expect(refused.code).toBe('OUT_OF_MEMORY')
    expect(refused.message).toMatch(/would take about [\d.]+ GB of memory, and [\d.]+ GB are available/)
    expect(refused.message).toMatch(/`train\.batchSize: \d+`/)
    expect(refused.message).toContain('train.allowOverMemory')
    expect(existsSync(join(folder, 'run'))).toBe(false)
    const { status, stderr } = await cli(['train', recipeFile(folder, recipe)])
    expect([status, stderr]).toEqual([1, expect.stringContaining('error OUT_OF_MEMORY: ')])
  })
})
