// `npm run bench -- step`: the same training step in flowtune and, where its Python is named, in NeMo Automodel over
// PyTorch, in turn A B A B, so that both see the same machine.
//
//   node bench/step.mjs [--geometry mid,klein-blocks] [--mode lora,full] [--steps 3] [--rounds 2]
//                       [--dtype float32,bfloat16] [--peer ~/peer/bin/python] [--json FILE]

import { execFileSync } from 'node:child_process'
import { writeFileSync } from 'node:fs'
import { arch, cpus, platform } from 'node:os'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'

const { values: options } = parseArgs({
  options: {
    geometry: { type: 'string', default: 'mid' },
    mode: { type: 'string', default: 'lora' },
    steps: { type: 'string', default: '3' },
    rounds: { type: 'string', default: '2' },
    peer: { type: 'string' },
    dtype: { type: 'string', default: 'float32,bfloat16' },
    json: { type: 'string' },
  },
})

const here = (file) => fileURLToPath(new URL(file, import.meta.url))
const list = (text) => text.split(',').filter(Boolean)
const CHECKPOINTING = ['kept', 'checkpointed']

/** What is timed: a label and how to start it. */
function contenders(geometry, mode) {
  const programs = [['flowtune', process.execPath, here('flowtune-step.mjs')]]
  if (options.peer) programs.push(['PyTorch', options.peer, here('peer-step.py')])
  return programs.flatMap(([name, ...program]) =>
    list(options.dtype).flatMap((dtype) =>
      CHECKPOINTING.map((checkpointing) => ({
        label: `${name} ${dtype} ${checkpointing}`,
        command: [...program, geometry, mode, checkpointing, options.steps, dtype],
      })),
    ),
  )
}

function start([program, ...args]) {
  const out = execFileSync(program, args, { encoding: 'utf8', stdio: ['ignore', 'pipe', 'pipe'] })
  return JSON.parse(out.slice(out.indexOf('{')))
}

function median(values) {
  const sorted = [...values].sort((a, b) => a - b)
  const middle = sorted.length >> 1
  return sorted.length % 2 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2
}

const results = []
for (const geometry of list(options.geometry)) {
  for (const mode of list(options.mode)) {
    const runs = contenders(geometry, mode).map((contender) => ({ ...contender, seconds: [], peakBytes: 0 }))
    for (let round = 0; round < Number(options.rounds); round += 1) {
      for (const run of runs) {
        process.stderr.write(`${geometry} ${mode}, round ${round + 1}: ${run.label}\n`)
        const { seconds, peakBytes } = start(run.command)
        run.seconds.push(...seconds)
        run.peakBytes = Math.max(run.peakBytes, peakBytes)
      }
    }
    for (const { label, seconds, peakBytes } of runs) {
      results.push({ geometry, mode, label, median: median(seconds), seconds, peakBytes })
    }
  }
}

const machine = `${cpus()[0]?.model}, ${cpus().length} cores, ${platform()} ${arch()}`
process.stdout.write(`${machine}, ${new Date().toISOString().slice(0, 10)}\n\n`)
process.stdout.write('| geometry | mode | | s/step | peak GB |\n|---|---|---|---|---|\n')
for (const { geometry, mode, label, median: seconds, peakBytes } of results) {
  process.stdout.write(
    `| ${geometry} | ${mode} | ${label} | ${seconds.toFixed(3)} | ${(peakBytes / 1e9).toFixed(2)} |\n`,
  )
}
if (options.json) writeFileSync(options.json, JSON.stringify({ machine, results }, null, 2))
