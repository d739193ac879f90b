// Every example as a user runs it: a process of its own, on the built package.

import { execFile } from 'node:child_process'
import { existsSync, readdirSync } from 'node:fs'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { expect, it } from 'vitest'
import { Flux2Transformer, inspect, loadImage, loadSafetensors } from '../src/index'
import { values } from './helpers/model'
import { root, temporaryFolder } from './helpers/paths'

const run = promisify(execFile)
const model = join(root, 'models', 'flux2-tiny')

async function example(name: string, out: string): Promise<string[]> {
  const tsx = join(root, 'node_modules', 'tsx', 'dist', 'cli.mjs')
  const { stdout } = await run(process.execPath, [tsx, join('examples', `${name}.ts`), out], { cwd: root })
  return stdout.trim().split('\n')
}

/** The losses that an example prints. */
function losses(lines: string[]): number[] {
  return lines.flatMap((line) => [...line.matchAll(/loss (\d+\.\d+)/g)].map(([, loss]) => Number(loss)))
}

const checks: Record<string, (out: string) => Promise<void>> = {
  'training-loop': async (out) => {
    const lines = await example('training-loop', out)
    expect(lines.filter((line) => line.startsWith('step '))).toHaveLength(20)
    const [, before, after] = lines.join('\n').match(/held-out loss (\S+) → (\S+)/) ?? []
    expect(Number(after)).toBeLessThan(Number(before) * 0.7)
    const transformer = await Flux2Transformer.load(model)
    expect((await transformer.loadLora(join(out, 'lora'))).length).toBeGreaterThan(0)
    expect((await loadImage(join(out, 'red-heart.png'), { width: 64, height: 64 })).shape).toEqual([3, 64, 64])
    // Again: nothing is left to train, and the checkpoint is taken over.
    const again = await example('training-loop', out)
    expect(again.filter((line) => line.startsWith('step '))).toEqual([])
    expect(again[0]).toBe(`held-out loss ${after} → ${after}`)
  },
  'custom-adapter': async (out) => {
    const lines = await example('custom-adapter', out)
    expect(lines).toHaveLength(10)
    expect(lines[0]).toMatch(/^step 1 {2}loss \d+\.\d+, of it drift \d+\.\d+$/)
    const [first = 0, last = 0] = [losses(lines)[0], losses(lines).at(-1)]
    expect(last).toBeLessThan(first)
  },
  'custom-sampler': async (out) => {
    const lines = await example('custom-sampler', out)
    const counts = lines.slice(0, 20).map((line) => Number(line.split(' ').at(-1)))
    expect(counts.reduce((sum, count) => sum + count)).toBe(4000)
    // A little towards noise: of σ = u^0.8, the share above 0.5 is 1 − 0.5^1.25 = 0.58.
    expect(counts.slice(10).reduce((sum, count) => sum + count) / 4000).toBeCloseTo(0.58, 1)
    const weights = lines.flatMap((line) => [...line.matchAll(/^weight at σ (\S+): (\S+)$/g)])
    expect(weights).toHaveLength(4)
    // σ is printed with two places, and the weight's slope is at most 3.1: 0.005 · 3.1 and the rounding of the weight.
    for (const [, sigma, weight] of weights) {
      const [s, w] = [Number(sigma), Number(weight)]
      expect(Math.abs(w - s ** 2 * Math.min(((1 - s) / s) ** 2, 5))).toBeLessThan(0.017)
    }
  },
  'image-sampler': async (out) => {
    const path = (await example('image-sampler', out)).at(-1) ?? ''
    const pixels = values(await loadImage(path, { width: 64, height: 64 }))
    // A picture, not a plain surface.
    expect(Math.max(...pixels) - Math.min(...pixels)).toBeGreaterThan(1)
  },
  'async-dataset': async (out) => {
    const lines = await example('async-dataset', out)
    expect(lines).toHaveLength(4)
    expect(losses(lines).every(Number.isFinite)).toBe(true)
  },
  'learned-embedding': async (out) => {
    const lines = await example('learned-embedding', out)
    const { tensors } = await loadSafetensors(join(out, 'style.safetensors'))
    const { jointAttentionDim } = inspect(model) as { jointAttentionDim: number }
    expect(tensors.style?.shape).toEqual([1, 1, jointAttentionDim])
    expect(values(tensors.style).some((value) => value !== 0)).toBe(true)
    expect(lines).toHaveLength(11)
  },
}

const names = readdirSync(join(root, 'examples'))
  .filter((file) => file.endsWith('.ts') && file !== 'paths.ts')
  .map((file) => file.replace('.ts', ''))

it.each(names)('%s', async (name) => {
  expect(existsSync(join(root, 'dist', 'index.js'))).toBe(true)
  const check = checks[name]
  if (!check) throw new Error(`no test knows what examples/${name}.ts should do`)
  await check(temporaryFolder())
})
