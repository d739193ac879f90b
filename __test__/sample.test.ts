import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, it } from 'vitest'
import { sample, train } from '../src/index'
import { cli, documents } from './helpers/cli'
import { filesIn } from './helpers/files'
import { cases, pipeline, temporaryFolder } from './helpers/paths'
import { tinyRecipe } from './helpers/recipe'
import { tensorsOf } from './helpers/safetensors'

const REQUEST = { model: pipeline, prompt: 'red heart', width: 64, height: 32, steps: 2 }

/** Width and height that a PNG's header tells. */
function sizeOf(png: string): [number, number] {
  const bytes = readFileSync(png)
  expect(bytes.subarray(0, 8).toString('latin1')).toBe('\x89PNG\r\n\x1a\n')
  return [bytes.readUInt32BE(16), bytes.readUInt32BE(20)]
}

describe('flowtune sample', () => {
  it('writes an image, and what it was made of as tensors', async () => {
    const folder = temporaryFolder()
    const [out, dump] = [join(folder, 'a.png'), join(folder, 'a.safetensors')]
    const size = ['--width', '64', '--height', '32', '--steps', '2', '--seed', '3']
    const args = ['sample', '--model', pipeline, '--prompt', 'red heart', ...size, '--json']
    const result = await cli([...args, '--out', out, '--dump', dump])
    expect(result).toMatchObject({ status: 0, stderr: '' })
    expect(documents<object>(result)).toEqual([{ path: out, dump, seconds: expect.any(Number) }])
    expect(sizeOf(out)).toEqual([64, 32])
    const shapes = Object.fromEntries(tensorsOf(dump).map(({ name, shape }) => [name, shape]))
    expect(shapes).toEqual({
      image: [1, 3, 32, 64],
      initial_latents: [1, 128, 2, 4],
      text_embeddings: [1, expect.any(Number), 96],
      negative_text_embeddings: [1, expect.any(Number), 96],
    })
    expect(filesIn(folder)).toEqual(['a.png', 'a.safetensors'])
  })

  it('makes an image from others, which the dump holds too', async () => {
    const folder = temporaryFolder()
    const [out, dump] = [join(folder, 'a.png'), join(folder, 'a.safetensors')]
    const [wide, tall] = ['wide.png', 'tall.png'].map((name) => join(cases, '..', 'edit', name)) as [string, string]
    const args = ['sample', '--model', pipeline, '--prompt', 'x', '--size', '32', '--steps', '1']
    const result = await cli([...args, '--reference', wide, '--reference', tall, '--out', out, '--dump', dump])
    expect(result).toMatchObject({ status: 0 })
    const shapes = Object.fromEntries(tensorsOf(dump).map(({ name, shape }) => [name, shape]))
    // 101×70 and 70×95 pixels, cut to multiples of 16.
    expect(shapes).toMatchObject({ 'reference_latents.0': [1, 128, 4, 6], 'reference_latents.1': [1, 128, 5, 4] })
    const image = async (name: string, references: string[]) => {
      const { path } = await sample({
        ...REQUEST,
        width: 32,
        steps: 1,
        prompt: 'x',
        references,
        out: join(folder, name),
      })
      return readFileSync(path)
    }
    expect(await image('b.png', [wide, tall])).toEqual(readFileSync(out))
    expect(await image('c.png', [tall, wide])).not.toEqual(readFileSync(out))
    expect(await image('d.png', [])).not.toEqual(readFileSync(out))
  })

  it('names a reference that is no image', async () => {
    const folder = temporaryFolder()
    const reference = join(folder, 'notes.txt')
    writeFileSync(reference, 'not an image')
    const args = ['sample', '--model', pipeline, '--prompt', 'x', '--size', '32', '--steps', '1']
    const { status, stderr } = await cli([...args, '--reference', reference, '--out', join(folder, 'a.png')])
    expect({ status, stderr }).toEqual({ status: 1, stderr: expect.stringContaining(reference) })
    expect(stderr).toMatch(/^error DATA_UNREADABLE: /m)
    expect(filesIn(folder)).toEqual(['notes.txt'])
  })

  it.each(['--out', '--dump'])('refuses to write over a file that is there (%s)', async (option) => {
    const folder = temporaryFolder()
    const precious = join(folder, 'precious')
    writeFileSync(precious, 'mine')
    const other = option === '--out' ? [] : ['--out', join(folder, 'a.png')]
    const args = ['sample', '--model', pipeline, '--prompt', 'x', '--size', '32', '--steps', '1']
    const { status, stderr } = await cli([...args, ...other, option, precious])
    expect({ status, stderr }).toEqual({ status: 1, stderr: expect.stringContaining(precious) })
    expect(stderr).toMatch(/^error INVALID_ARGUMENT: /m)
    expect(readFileSync(precious, 'utf8')).toBe('mine')
    expect(filesIn(folder)).toEqual(['precious'])
  })
})

describe('sample', () => {
  it('is a function of the seed, the prompt and the LoRA', async () => {
    const folder = temporaryFolder()
    const { weights } = await (await train(tinyRecipe(folder, 4))).wait()
    const image = async (name: string, changed: object) => {
      const { path } = await sample({ ...REQUEST, ...changed, out: join(folder, name) })
      return readFileSync(path)
    }
    const first = await image('1.png', {})
    expect(await image('2.png', { seed: 0 })).toEqual(first)
    expect(await image('3.png', { seed: 1 })).not.toEqual(first)
    expect(await image('4.png', { prompt: 'dog face' })).not.toEqual(first)
    const file = join(weights, 'pytorch_lora_weights.safetensors')
    const tuned = await image('5.png', { lora: weights })
    expect(tuned).not.toEqual(first)
    expect(await image('6.png', { lora: file })).toEqual(tuned)
  })

  it('names a size that is no multiple of 16', async () => {
    const out = join(temporaryFolder(), 'a.png')
    const error = await sample({ ...REQUEST, width: 60, out }).catch((thrown) => thrown)
    expect(error).toMatchObject({ name: 'FlowtuneError', code: 'INVALID_ARGUMENT' })
    expect(error.message).toMatch(/width.*60/)
  })
})
