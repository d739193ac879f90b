// `npm run bench -- plan`: the memory that `flowtune plan` foretells against the most that is resident in a run, and the time
// of a step. Steps are those of the other benches (random weights, `geometries.json`; files with holes, `load.mjs`); the
// embedded model runs as a whole, from its images to the sample images.
//
//   npm run bench -- plan [--only mid,klein-blocks,load,tiny] [--steps 1] [--json out.json] [--measured out.json]
//
// `--measured` takes what an earlier run wrote with `--json` instead of running: for changes of the plan alone.

import { execFileSync } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { arch, cpus, platform, tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import { loadRecipe, plan } from '../dist/index.js'
import { GEOMETRIES, writeHollow } from './hollow.mjs'

const { values: options } = parseArgs({
  options: {
    only: { type: 'string', default: 'mid,klein-blocks,load,tiny' },
    steps: { type: 'string', default: '1' },
    json: { type: 'string' },
    measured: { type: 'string' },
  },
})

/** How far a prediction may be off. */
const BOUND = 0.1

const here = (file) => fileURLToPath(new URL(file, import.meta.url))
const geometries = JSON.parse(readFileSync(here('geometries.json'), 'utf8'))
const folder = mkdtempSync(join(tmpdir(), 'flowtune-plan-'))

/** Mode, what is kept, type, samples. */
const STEPS = {
  mid: [
    ['lora', 'kept', 'float32', 1],
    ['lora', 'checkpointed', 'float32', 1],
    ['lora', 'kept', 'bfloat16', 1],
    ['lora', 'checkpointed', 'bfloat16', 1],
    ['lora', '0.5', 'bfloat16', 1],
    ['lora', 'kept', 'int8', 1],
    ['lora', 'checkpointed', 'int8', 1],
    ['lora', 'kept', 'bfloat16', 2],
    ['lora', 'checkpointed', 'float32', 2],
    ['full', 'kept', 'float32', 1],
    ['full', 'checkpointed', 'float32', 1],
    ['full', 'checkpointed', 'bfloat16', 2],
  ],
  'klein-blocks': [
    ['lora', 'kept', 'float32', 1],
    ['lora', 'checkpointed', 'float32', 1],
    ['lora', 'kept', 'bfloat16', 1],
    ['lora', 'checkpointed', 'bfloat16', 2],
    ['lora', 'kept', 'int8', 2],
    ['lora', 'checkpointed', 'int8', 1],
  ],
}

const LOADS = [
  ['klein-4B', 'bfloat16', 'none'],
  ['klein-4B', 'bfloat16', 'int8'],
  ['klein-9B', 'bfloat16', 'int8'],
]

/** A recipe of a geometry: the small pipeline of the tests with another transformer, whose weights are holes. */
function recipeOf(
  { dim, double, single, joint, guidance },
  side,
  textTokens,
  { mode, keep, dtype, quantization, batch },
) {
  const transformer = join(folder, 'transformer.safetensors')
  writeHollow(transformer, { dim, double, single, joint, guidance })
  return {
    model: { path: here('../__test__/fixtures/parity/pipeline/pipeline'), transformer, dtype, quantization },
    data: { train: here('../examples/twemoji'), resolution: 16 * side, textTokens, cacheDir: join(folder, 'cache') },
    mode,
    flowMatching: { captionDropout: 0 },
    train: {
      steps: 1,
      batchSize: batch,
      activationCheckpointing: keep === 'checkpointed',
      ...(Number(keep) && { memoryBudget: Number(keep) }),
    },
    output: { dir: join(folder, 'run') },
  }
}

const training = ({ memory }) => memory.phases.find(({ name }) => name === 'train').peak

const earlier = options.measured ? JSON.parse(readFileSync(options.measured, 'utf8')) : []

/** What was measured earlier, or is now. */
function result(what, planned, run) {
  const { measured, time } = earlier.find((each) => each.what === what) ?? run()
  return { what, planned, measured, time }
}

async function step(name, [mode, keep, type, batch]) {
  const { transformer: t, latents, textTokens } = geometries[name]
  const shape = {
    dim: t.num_attention_heads * t.attention_head_dim,
    double: t.num_layers,
    single: t.num_single_layers,
    joint: t.joint_attention_dim,
    guidance: true,
  }
  const types = type === 'int8' ? { dtype: 'bfloat16', quantization: 'int8' } : { dtype: type }
  const planned = await plan(recipeOf(shape, latents[0], textTokens, { mode, keep, batch, ...types }))
  const args = [here('flowtune-step.mjs'), name, mode, keep, options.steps, type, String(batch)]
  const run = () => {
    const { seconds, peakBytes } = JSON.parse(execFileSync(process.execPath, args, { encoding: 'utf8' }))
    return { measured: peakBytes, time: planned.time.step / Math.min(...seconds) }
  }
  return result(`${name} ${mode}, ${type}, ${keep}, batch ${batch}`, training(planned), run)
}

async function load([name, dtype, quantization]) {
  const types = { mode: 'lora', keep: 'checkpointed', batch: 1, dtype, quantization }
  const planned = await plan(recipeOf(GEOMETRIES[name], 16, 512, types), { noTime: true })
  const args = [here('load.mjs'), '--geometry', name, '--dtype', dtype, '--quantization', quantization]
  const run = () => {
    const { peakGigabytes } = JSON.parse(execFileSync(process.execPath, args, { encoding: 'utf8' }))
    return { measured: peakGigabytes * 1e9 }
  }
  const type = quantization === 'none' ? dtype : quantization
  return result(`${name} lora, ${type}, checkpointed`, training(planned), run)
}

/** The quickstart's recipe, whole, in fewer steps. */
async function tiny(mode, activationCheckpointing) {
  const recipe = await loadRecipe(here('../recipes/quickstart.yaml'))
  recipe.mode = mode
  recipe.train = { ...recipe.train, steps: 20, activationCheckpointing }
  recipe.lrSchedule = {}
  recipe.data.cacheDir = join(folder, `cache-${mode}-${activationCheckpointing}`)
  recipe.output.dir = join(folder, `run-${mode}-${activationCheckpointing}`)
  const planned = await plan(recipe, { noTime: true })
  const [file, peak] = [join(folder, 'recipe.yaml'), join(folder, 'peak')]
  writeFileSync(file, JSON.stringify(recipe))
  const args = ['--import', here('peak.mjs'), here('../dist/cli.js'), 'train', file, '--json']
  const run = () => {
    const env = { ...process.env, PEAK_FILE: peak }
    execFileSync(process.execPath, args, { env, stdio: ['ignore', 'pipe', 'inherit'] })
    return { measured: Number(readFileSync(peak, 'utf8')) }
  }
  const keep = activationCheckpointing ? 'checkpointed' : 'kept'
  return result(`embedded model ${mode}, ${keep}, whole run`, planned.memory.peak, run)
}

function* work() {
  const only = options.only.split(',')
  for (const [name, runs] of Object.entries(STEPS))
    if (only.includes(name)) for (const run of runs) yield () => step(name, run)
  if (only.includes('load')) for (const run of LOADS) yield () => load(run)
  if (only.includes('tiny'))
    for (const mode of ['lora', 'full']) for (const on of [true, false]) yield () => tiny(mode, on)
}

const results = []
try {
  process.stdout.write(`${cpus()[0]?.model}, ${cpus().length} cores, ${platform()} ${arch()}, `)
  process.stdout.write(`${new Date().toISOString().slice(0, 10)}\n\n`)
  process.stdout.write('| | planned GB | measured GB | ratio | time, planned / measured |\n|---|---|---|---|---|\n')
  for (const run of work()) {
    const result = await run()
    const { what, planned, measured, time } = result
    const cells = [(planned / 1e9).toFixed(3), (measured / 1e9).toFixed(3), (planned / measured).toFixed(3)]
    process.stdout.write(`| ${what} | ${cells.join(' | ')} | ${time?.toFixed(2) ?? ''} |\n`)
    results.push(result)
  }
} finally {
  rmSync(folder, { recursive: true, force: true })
}
if (options.json) writeFileSync(options.json, JSON.stringify(results, null, 2))
const off = results.filter(({ planned, measured }) => Math.abs(planned / measured - 1) > BOUND)
process.stdout.write(`\n${results.length - off.length} of ${results.length} within ${100 * BOUND} %\n`)
process.exitCode = off.length === 0 ? 0 : 1
