// `npm run bench -- memory`: what `flowtune plan` says that training takes, by model, type of the base and size of the
// images. Nothing is trained: the models are files with the real header and holes for weights (`hollow.mjs`).

import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { plan } from '../dist/index.js'
import { GEOMETRIES, writeHollow } from './hollow.mjs'

const BASES = ['none', 'int8', 'nf4']
const SIDES = [512, 1024]

const here = (file) => fileURLToPath(new URL(file, import.meta.url))
const folder = mkdtempSync(join(tmpdir(), 'flowtune-memory-'))

/** A LoRA of rank 16 on one image at a time, checkpointed. */
function recipe(transformer, quantization, resolution) {
  return {
    model: {
      path: here('../__test__/fixtures/parity/pipeline/pipeline'),
      transformer,
      dtype: 'bfloat16',
      quantization,
    },
    data: { train: here('../examples/twemoji'), resolution, textTokens: 512, cacheDir: join(folder, 'cache') },
    train: { steps: 1, batchSize: 1 },
    output: { dir: join(folder, 'run') },
  }
}

/** Gigabytes of training. */
async function training(recipe) {
  const { memory } = await plan(recipe, { noTime: true })
  return memory.phases.find(({ name }) => name === 'train').peak / 1e9
}

try {
  const columns = SIDES.flatMap((side) => BASES.map((base) => `${side}², ${base === 'none' ? 'bfloat16' : base}`))
  console.log(`| | ${columns.join(' | ')} |\n|${'---|'.repeat(columns.length + 1)}`)
  for (const [name, geometry] of Object.entries(GEOMETRIES)) {
    const transformer = join(folder, `${name}.safetensors`)
    writeHollow(transformer, geometry)
    const cells = []
    for (const side of SIDES)
      for (const base of BASES) cells.push((await training(recipe(transformer, base, side))).toFixed(1))
    console.log(`| ${name} | ${cells.join(' | ')} |`)
  }
} finally {
  rmSync(folder, { recursive: true })
}
