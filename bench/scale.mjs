// `npm run bench -- scale`: how the cost of a LoRA step grows with the tokens and with the blocks, and whether memory stays
// where it is over many steps. Width 1024, kept activations.
//
//   npm run bench -- scale [--dtype bfloat16] [--steps 3] [--tokens 256,1024,4096] [--blocks 1,6,24] [--soak 200]
//
// GFLOP/s that stay where they are say that time grows as the operations do (`flops.mjs`).

import { execFileSync } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import { flopsOfStep } from './flops.mjs'

const { values: options } = parseArgs({
  options: {
    dtype: { type: 'string', default: 'bfloat16' },
    steps: { type: 'string', default: '3' },
    tokens: { type: 'string', default: '256,512,1024,2048,4096' },
    blocks: { type: 'string', default: '1,2,6,12,24' },
    soak: { type: 'string', default: '200' },
  },
})

const TEXT_TOKENS = 128
const numbers = (text) => text.split(',').filter(Boolean).map(Number)

/** Image tokens in all but the text's; a third of the blocks double. */
function geometry(tokens, blocks) {
  const double = Math.ceil(blocks / 3)
  return {
    transformer: {
      num_layers: double,
      num_single_layers: blocks - double,
      attention_head_dim: 128,
      num_attention_heads: 8,
      joint_attention_dim: 1536,
    },
    latents: [(tokens - TEXT_TOKENS) / 8, 8],
    textTokens: TEXT_TOKENS,
  }
}

function run(shape, steps) {
  const args = [JSON.stringify(shape), 'lora', 'kept', String(steps), options.dtype]
  const script = fileURLToPath(new URL('flowtune-step.mjs', import.meta.url))
  return JSON.parse(execFileSync(process.execPath, [script, ...args], { encoding: 'utf8' }))
}

function row(tokens, blocks) {
  process.stderr.write(`${tokens} tokens, ${blocks} blocks\n`)
  const shape = geometry(tokens, blocks)
  const { seconds, peakBytes } = run(shape, options.steps)
  const median = seconds.sort((a, b) => a - b)[seconds.length >> 1]
  const gflop = flopsOfStep(shape, 'lora', false) / 1e9
  const cells = [tokens, blocks, gflop.toFixed(0), median.toFixed(3), (gflop / median).toFixed(0)]
  process.stdout.write(`| ${cells.join(' | ')} | ${(peakBytes / 1e9).toFixed(2)} |\n`)
}

process.stdout.write('| tokens | blocks | GFLOP | s/step | GFLOP/s | peak GB |\n|---|---|---|---|---|---|\n')
for (const tokens of numbers(options.tokens)) row(tokens, 6)
for (const blocks of numbers(options.blocks)) row(1024, blocks)

const soak = Number(options.soak)
if (soak > 0) {
  process.stderr.write(`${soak} steps\n`)
  const { residentBytes } = run(geometry(256, 3), soak)
  const at = [0.1, 0.25, 0.5, 0.75, 1].map((share) => Math.round(share * soak))
  const resident = at.map((step) => `${(residentBytes[step] / 1e6).toFixed(0)} MB after ${step}`)
  process.stdout.write(`\nResident over ${soak} steps (256 tokens, 3 blocks): ${resident.join(', ')}.\n`)
}
