// `npm run bench -- step`: the same training step in flowtune and, where its Python is named, in NeMo Automodel over
// PyTorch, in turn A B A B, so that both see the same machine. Speed and memory are against the fastest of the peer's
// runs in the same type.
//
//   npm run bench -- step [--geometry mid,klein-blocks,klein-4B] [--mode lora,full] [--steps 3] [--rounds 2]
//                         [--dtype float32,bfloat16,int8] [--keep kept,checkpointed,9.3] [--peer ~/peer/bin/python]
//                         [--json FILE]
//
// A number under --keep is flowtune's memory budget in gigabytes. `of rate` is the share of the rate that the engine's own
// products reach on this machine (`gemm_rate`), over the operations that the geometry needs (`flops.mjs`). The rate
// is taken before each of our runs: on a shared machine it changes by a tenth within minutes.

import { execFileSync } from 'node:child_process'
import { readFileSync, writeFileSync } from 'node:fs'
import { arch, cpus, platform } from 'node:os'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import { hostTarget } from '../scripts/lib/shell.mjs'
import { flopsOfStep } from './flops.mjs'

const { values: options } = parseArgs({
  options: {
    geometry: { type: 'string', default: 'mid' },
    mode: { type: 'string', default: 'lora' },
    steps: { type: 'string', default: '3' },
    rounds: { type: 'string', default: '2' },
    peer: { type: 'string' },
    dtype: { type: 'string', default: 'float32,bfloat16' },
    keep: { type: 'string', default: 'kept,checkpointed' },
    json: { type: 'string' },
  },
})

const here = (file) => fileURLToPath(new URL(file, import.meta.url))
const list = (text) => text.split(',').filter(Boolean)

/** What is timed: a label and how to start it. */
function contenders(geometry, mode) {
  const programs = [['flowtune', process.execPath, here('flowtune-step.mjs')]]
  if (options.peer) programs.push(['PyTorch', options.peer, here('peer-step.py')])
  const all = programs.flatMap(([name, ...program]) =>
    list(options.dtype).flatMap((dtype) =>
      list(options.keep).map((keep) => ({
        own: name === 'flowtune',
        dtype,
        keep,
        label: `${name} ${dtype} ${keep}`,
        command: [...program, geometry, mode, keep, options.steps, dtype],
      })),
    ),
  )
  // PyTorch has no budget and no int8 of this kind.
  return all.filter(({ own, dtype, keep }) => own || (dtype !== 'int8' && !Number(keep)))
}

/** GFLOP/s of the engine's products by type; none without cargo. */
function gemmRates() {
  try {
    const args = ['run', '--release', '--target', hostTarget(), '-q', '-p', 'flowtune-engine', '--example', 'gemm_rate']
    return JSON.parse(execFileSync('cargo', args, { encoding: 'utf8', cwd: here('..') }))
  } catch {
    return {}
  }
}

/** The rate of one type now, if it can be measured. */
const rateOf = (dtype) => [gemmRates()[dtype]].filter(Boolean)

function start([program, ...args]) {
  const out = execFileSync(program, args, { encoding: 'utf8', stdio: ['ignore', 'pipe', 'pipe'] })
  return JSON.parse(out.slice(out.indexOf('{')))
}

function median(values) {
  const sorted = [...values].sort((a, b) => a - b)
  const middle = sorted.length >> 1
  return sorted.length % 2 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2
}

const geometries = JSON.parse(readFileSync(here('geometries.json'), 'utf8'))
// Compiles, so that no run waits for it.
gemmRates()
const results = []
for (const geometry of list(options.geometry)) {
  for (const mode of list(options.mode)) {
    const runs = contenders(geometry, mode).map((contender) => ({ ...contender, seconds: [], rates: [], peakBytes: 0 }))
    for (let round = 0; round < Number(options.rounds); round += 1) {
      for (const run of runs) {
        process.stderr.write(`${geometry} ${mode}, round ${round + 1}: ${run.label}\n`)
        if (run.own) run.rates.push(...rateOf(run.dtype))
        const { seconds, peakBytes } = start(run.command)
        run.seconds.push(...seconds)
        run.peakBytes = Math.max(run.peakBytes, peakBytes)
      }
    }
    for (const { own, label, dtype, keep, seconds, rates, peakBytes } of runs) {
      const gflop = flopsOfStep(geometries[geometry], mode, keep === 'checkpointed') / 1e9
      const ofRate = rates.length > 0 && !Number(keep) ? gflop / median(seconds) / median(rates) : undefined
      results.push({ geometry, mode, label, own, dtype, median: median(seconds), seconds, rates, peakBytes, ofRate })
    }
  }
}

/** The fastest run of the peer in the same type; int8 is measured against bfloat16. */
function opponent({ geometry, mode, dtype }) {
  const type = dtype === 'int8' ? 'bfloat16' : dtype
  const peers = results.filter(
    (run) => !run.own && run.geometry === geometry && run.mode === mode && run.dtype === type,
  )
  return peers.sort((a, b) => a.median - b.median)[0]
}

/** Between which rates our products were. */
function ratesByType() {
  const types = [...new Set(results.filter((run) => run.rates.length > 0).map((run) => run.dtype))]
  const all = (dtype) => results.filter((run) => run.dtype === dtype).flatMap((run) => run.rates)
  const texts = types.map((dtype) => `${dtype} ${Math.min(...all(dtype))} to ${Math.max(...all(dtype))} GFLOP/s`)
  return texts.join(', ') || 'not measured'
}

const percent = (share) => (share === undefined ? '' : `${(100 * share).toFixed(0)} %`)
const machine = `${cpus()[0]?.model}, ${cpus().length} cores, ${platform()} ${arch()}`
process.stdout.write(`${machine}, ${new Date().toISOString().slice(0, 10)}; products of ours: ${ratesByType()}\n\n`)
process.stdout.write(
  '| geometry | mode | | s/step | peak GB | of rate | speed | memory |\n|---|---|---|---|---|---|---|---|\n',
)
for (const run of results) {
  const { geometry, mode, label, median: seconds, peakBytes, ofRate } = run
  const peer = run.own ? opponent(run) : undefined
  const against = peer
    ? `${(peer.median / seconds).toFixed(2)} × | ${(peakBytes / peer.peakBytes).toFixed(2)} ×`
    : ' | '
  const measured = `${seconds.toFixed(3)} | ${(peakBytes / 1e9).toFixed(2)} | ${percent(ofRate)}`
  process.stdout.write(`| ${geometry} | ${mode} | ${label} | ${measured} | ${against} |\n`)
}
if (options.json) writeFileSync(options.json, JSON.stringify({ machine, results }, null, 2))
