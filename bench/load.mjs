// `npm run bench -- load`: a transformer of a real geometry from one file in Black Forest Labs' layout, and one LoRA step.
// The file has the real header and holes for weights (`hollow.mjs`).
//
//   npm run bench -- load [--geometry klein-4B] [--dtype bfloat16] [--quantization none] [--tokens 256] [--text-tokens 512]

import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { AdamW, createPipeline, Flux2Transformer, Tensor } from '../dist/index.js'
import { GEOMETRIES, writeHollow } from './hollow.mjs'

const { values: options } = parseArgs({
  options: {
    geometry: { type: 'string', default: 'klein-4B' },
    dtype: { type: 'string', default: 'bfloat16' },
    quantization: { type: 'string', default: 'none' },
    tokens: { type: 'string', default: '256' },
    'text-tokens': { type: 'string', default: '512' },
  },
})

const folder = mkdtempSync(join(tmpdir(), 'flowtune-load-'))
try {
  const geometry = GEOMETRIES[options.geometry]
  const file = join(folder, 'flux2.safetensors')
  const parameters = writeHollow(file, geometry)
  const started = performance.now()
  const { dtype, quantization } = options
  const model = await Flux2Transformer.load(file, { dtype, quantization })
  const loaded = performance.now()
  const loadedBytes = process.resourceUsage().maxRSS * 1024
  const optimizer = new AdamW(await model.addLora({ rank: 16 }), { lr: 1e-4 })
  const pipeline = createPipeline('flux2', { useGuidanceEmbeds: model.config.guidance_embeds })
  const side = Math.sqrt(Number(options.tokens))
  const batch = {
    imageLatents: Tensor.randn([1, 128, side, side], { seed: 1 }),
    textEmbeddings: Tensor.randn([1, Number(options['text-tokens']), geometry.joint], { seed: 2 }),
  }
  const { loss } = await pipeline.step(model, batch, { seed: 1, step: 0 })
  await optimizer.step(await loss.backward())
  const stepped = performance.now()
  const report = {
    geometry: options.geometry,
    dtype,
    quantization,
    parameters,
    loadSeconds: (loaded - started) / 1000,
    loadedGigabytes: loadedBytes / 1e9,
    stepSeconds: (stepped - loaded) / 1000,
    peakGigabytes: (process.resourceUsage().maxRSS * 1024) / 1e9,
  }
  process.stdout.write(`${JSON.stringify(report, null, 2)}\n`)
} finally {
  rmSync(folder, { recursive: true })
}
