import { mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, it } from 'vitest'
import {
  explain,
  exportLora,
  Flux2Transformer,
  inspect,
  type LoraFormat,
  type LoraRecipe,
  loadImage,
  mergeLora,
  resolveRecipe,
  sample,
  train,
} from '../src/index'
import { cli, documents } from './helpers/cli'
import { filesIn } from './helpers/files'
import { pipeline, temporaryFolder } from './helpers/paths'
import { tinyRecipe } from './helpers/recipe'
import { tensorsOf } from './helpers/safetensors'

const REQUEST = { model: pipeline, prompt: 'red heart', width: 32, height: 32, steps: 2 }

/** A trained run and the image that its LoRA makes. */
async function trained(folder: string) {
  const run = await (await train(tinyRecipe(folder, 3))).wait()
  const image = join(folder, 'own.png')
  await sample({ ...REQUEST, lora: join(run.runDir, 'lora'), out: image })
  return { runDir: run.runDir, image: await pixels(image) }
}

/** The pixels of an image, −1 to 1. */
async function pixels(file: string): Promise<Float32Array> {
  return (await loadImage(file, { width: 32, height: 32 })).toFloat32Array()
}

/** The largest difference of a pixel from `image` in what the options draw, in steps of 1/255. */
async function difference(image: Float32Array, folder: string, name: string, options: object): Promise<number> {
  const out = join(folder, `${name}.png`)
  await sample({ ...REQUEST, ...options, out })
  const other = await pixels(out)
  expect(other).toHaveLength(image.length)
  return 127.5 * image.reduce((most, value, i) => Math.max(most, Math.abs(value - (other[i] ?? 0))), 0)
}

describe('flowtune export', () => {
  it('writes each format, which comes back to the same LoRA', async () => {
    const folder = temporaryFolder()
    const { runDir, image } = await trained(folder)
    const own = tensorsOf(join(runDir, 'lora', 'pytorch_lora_weights.safetensors'))
    for (const format of ['comfyui', 'kohya'] satisfies LoraFormat[]) {
      const out = join(folder, `${format}.safetensors`)
      const result = await cli(['export', runDir, '--format', format, '--out', out, '--json'])
      expect(result).toMatchObject({ status: 0, stderr: '' })
      const summary = { path: out, format, adapters: own.length / 2, maxRelativeDifference: expect.any(Number) }
      expect(documents(result).at(-1)).toEqual(summary)
      expect(await difference(image, folder, format, { lora: out })).toBeLessThan(1.01)
      const back = join(folder, `${format}-back.safetensors`)
      await exportLora({ lora: out, format: 'diffusers', out: back })
      const names = (tensors: { name: string; shape: number[] }[]) =>
        Object.fromEntries(tensors.map(({ name, shape }) => [name, shape]))
      expect(names(tensorsOf(back))).toEqual(names(own))
      const model = await Flux2Transformer.load(pipeline)
      expect(await model.loadLora(out)).toHaveLength(own.length)
    }
    expect(tensorsOf(join(folder, 'kohya.safetensors')).map(({ name }) => name)).toContain(
      'lora_unet_double_blocks_0_img_attn_qkv.lora_down.weight',
    )
  })

  it('is gone on from, in any format', async () => {
    const folder = temporaryFolder()
    const { runDir } = await trained(folder)
    const kohya = join(folder, 'kohya.safetensors')
    await exportLora({ lora: runDir, format: 'kohya', out: kohya })
    const recipe = tinyRecipe(folder, 2)
    const losses = async (name: string, lora: LoraRecipe) => {
      const run = await train({ ...recipe, lora, output: { dir: join(folder, name) } })
      const out: number[] = []
      for await (const event of run) if (event.type === 'step') out.push(event.loss)
      return out
    }
    const further = await losses('further', { from: runDir })
    expect(await losses('from-kohya', { from: kohya })).toEqual(further)
    expect((await losses('fresh', recipe.lora))[0]).not.toBe(further[0])
    const modules = async (lora: LoraRecipe) => (await explain(resolveRecipe({ ...recipe, lora }))).modules
    expect(await modules({ from: kohya })).toEqual(await modules(recipe.lora))
  })

  it('overwrites nothing and leaves nothing of what it cannot write', async () => {
    const folder = temporaryFolder()
    const there = join(folder, 'there.safetensors')
    writeFileSync(there, 'mine')
    const options = { lora: join(pipeline, 'vae', 'diffusion_pytorch_model.safetensors'), format: 'kohya' } as const
    await expect(exportLora({ ...options, out: there })).rejects.toMatchObject({ code: 'INVALID_ARGUMENT' })
    const out = join(folder, 'new.safetensors')
    await expect(exportLora({ ...options, out })).rejects.toMatchObject({ code: 'CHECKPOINT_LAYOUT' })
    expect(filesIn(folder)).toEqual(['there.safetensors'])
    expect(readFileSync(there, 'utf8')).toBe('mine')
    const missing = await cli(['export', folder, '--out', out])
    expect(missing).toMatchObject({ status: 2, stderr: expect.stringContaining('--format') })
  })
})

describe('flowtune merge', () => {
  it('writes a transformer that draws what base and LoRA draw', async () => {
    const folder = temporaryFolder()
    const { runDir, image } = await trained(folder)
    const out = join(folder, 'merged')
    const args = ['merge', '--model', pipeline, '--lora', runDir, '--dtype', 'float32', '--out', out, '--json']
    const result = await cli(args)
    expect(result).toMatchObject({ status: 0, stderr: '' })
    expect(documents(result).at(-1)).toEqual({ path: out, merged: expect.any(Number), weights: expect.any(Number) })
    expect(inspect(out)).toMatchObject({ kind: 'transformer' })
    expect(await difference(image, folder, 'merged', { transformer: out })).toBeLessThan(1.01)
    expect(await difference(image, folder, 'base', {})).toBeGreaterThan(2)
    const half = await mergeLora({ model: pipeline, lora: runDir, weightsDtype: 'bfloat16', out: join(folder, 'half') })
    const types = new Set(tensorsOf(join(half.path, 'diffusion_pytorch_model.safetensors')).map(({ dtype }) => dtype))
    expect([...types]).toEqual(['BF16'])
  })

  it('refuses a folder that is there, and a LoRA of another model', async () => {
    const folder = temporaryFolder()
    const other = await Flux2Transformer.fromConfig({
      num_layers: 1,
      num_single_layers: 1,
      num_attention_heads: 1,
      attention_head_dim: 16,
      in_channels: 128,
      joint_attention_dim: 96,
      axes_dims_rope: [4, 4, 4, 4],
      guidance_embeds: false,
    })
    await other.addLora({ rank: 2 })
    await other.saveLora(folder)
    mkdirSync(join(folder, 'there'))
    const request = { model: pipeline, lora: folder, out: join(folder, 'there') }
    await expect(mergeLora(request)).rejects.toMatchObject({ code: 'INVALID_ARGUMENT' })
    await expect(mergeLora({ ...request, out: join(folder, 'new') })).rejects.toMatchObject({
      code: 'CHECKPOINT_LAYOUT',
    })
    expect(filesIn(folder)).toEqual(['pytorch_lora_weights.safetensors'])
  })
})
