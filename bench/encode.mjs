// `npm run bench -- encode --peer PYTHON`: VAE and text encoder against diffusers' and transformers', the same random
// weights, in turn. The peer makes the weights, so it is needed here.
//
//   npm run bench -- encode --peer ~/peer/bin/python [--pixels 256] [--tokens 512] [--runs 3] [--rounds 2]

import { execFileSync } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { arch, cpus, platform, tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import { AutoencoderKLFlux2, loadSafetensors, Tensor, TextEncoder } from '../dist/index.js'

const { values: options } = parseArgs({
  options: {
    peer: { type: 'string' },
    pixels: { type: 'string', default: '256' },
    tokens: { type: 'string', default: '512' },
    runs: { type: 'string', default: '3' },
    rounds: { type: 'string', default: '2' },
  },
})
const [pixels, tokens, runs, rounds] = [options.pixels, options.tokens, options.runs, options.rounds].map(Number)
if (!options.peer) throw new Error('name the Python that has diffusers and transformers: --peer ~/peer/bin/python')

async function seconds(work) {
  await work()
  const out = []
  for (let run = 0; run < runs; run += 1) {
    const started = performance.now()
    await work()
    out.push((performance.now() - started) / 1000)
  }
  return out.sort((a, b) => a - b)[runs >> 1]
}

async function own(folder) {
  const config = (part) => JSON.parse(readFileSync(join(folder, part, 'config.json'), 'utf8'))
  const weights = (part, file) => loadSafetensors(join(folder, part, file)).then(({ tensors }) => tensors)
  const vae = await AutoencoderKLFlux2.fromConfig(
    config('vae'),
    await weights('vae', 'diffusion_pytorch_model.safetensors'),
  )
  const bare = Object.entries(await weights('text', 'model.safetensors'))
  const named = Object.fromEntries(bare.map(([name, tensor]) => [`model.${name}`, tensor]))
  const text = await TextEncoder.fromConfig(config('text'), [8], named)
  const image = Tensor.randn([1, 3, pixels, pixels], { seed: 1 })
  const latent = Tensor.randn([1, 32, pixels / 8, pixels / 8], { seed: 2 })
  const ids = Tensor.fromInt64(
    BigInt64Array.from({ length: tokens }, (_, i) => BigInt(i % 4096)),
    [1, tokens],
  )
  const mask = Tensor.fromInt64(new BigInt64Array(tokens).fill(1n), [1, tokens])
  return {
    'vae encode': await seconds(() => vae.encode(image)),
    'vae decode': await seconds(() => vae.decode(latent)),
    'text encode': await seconds(() => text.textEmbeddings(ids, mask)),
  }
}

const folder = mkdtempSync(join(tmpdir(), 'flowtune-bench-'))
const script = fileURLToPath(new URL('peer-encode.py', import.meta.url))
try {
  const results = []
  for (let round = 0; round < rounds; round += 1) {
    const args = [script, folder, pixels, tokens, runs].map(String)
    const peer = JSON.parse(execFileSync(options.peer, args, { encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore'] }))
    results.push({ peer, own: await own(folder) })
  }
  const best = (who, what) => Math.min(...results.map((result) => result[who][what]))
  process.stdout.write(`${cpus()[0]?.model}, ${cpus().length} cores, ${platform()} ${arch()}, `)
  process.stdout.write(`${new Date().toISOString().slice(0, 10)}: ${pixels} pixels, ${tokens} tokens, float32\n\n`)
  process.stdout.write('| | flowtune s | PyTorch s | speed |\n|---|---|---|---|\n')
  for (const what of Object.keys(results[0].own)) {
    const [ours, theirs] = [best('own', what), best('peer', what)]
    process.stdout.write(`| ${what} | ${ours.toFixed(3)} | ${theirs.toFixed(3)} | ${(theirs / ours).toFixed(2)} × |\n`)
  }
} finally {
  rmSync(folder, { recursive: true, force: true })
}
