// `npm run bench -- load`: a transformer of a real geometry from one file in Black Forest Labs' layout, and one LoRA step.
// The file has the real header and holes for weights, so it takes no room on the disk; zeros are read as any other numbers.
//
//   npm run bench -- load [--geometry klein-4B] [--dtype bfloat16] [--quantization none] [--tokens 256]

import { mkdtempSync, openSync, rmSync, truncateSync, writeSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { AdamW, createPipeline, Flux2Transformer, Tensor } from '../dist/index.js'

const { values: options } = parseArgs({
  options: {
    geometry: { type: 'string', default: 'klein-4B' },
    dtype: { type: 'string', default: 'bfloat16' },
    quantization: { type: 'string', default: 'none' },
    tokens: { type: 'string', default: '256' },
  },
})

/** Width, double and single blocks, width of the text embeddings, guidance embedding. */
const GEOMETRIES = {
  'klein-4B': { dim: 3072, double: 5, single: 20, joint: 7680, guidance: false },
  'klein-9B': { dim: 4096, double: 8, single: 24, joint: 12288, guidance: false },
  dev: { dim: 6144, double: 8, single: 48, joint: 15360, guidance: true },
}

/** Names and shapes as in black-forest-labs/flux2's `model.py`. */
function* weights({ dim, double, single, joint, guidance }) {
  yield ['img_in.weight', [dim, 128]]
  yield ['txt_in.weight', [dim, joint]]
  for (const name of guidance ? ['time_in', 'guidance_in'] : ['time_in']) {
    yield [`${name}.in_layer.weight`, [dim, 256]]
    yield [`${name}.out_layer.weight`, [dim, dim]]
  }
  for (const stream of ['img', 'txt']) yield [`double_stream_modulation_${stream}.lin.weight`, [6 * dim, dim]]
  yield ['single_stream_modulation.lin.weight', [3 * dim, dim]]
  for (let block = 0; block < double; block += 1) {
    for (const stream of ['img', 'txt']) {
      const at = `double_blocks.${block}.${stream}`
      yield [`${at}_attn.qkv.weight`, [3 * dim, dim]]
      yield [`${at}_attn.norm.query_norm.scale`, [128]]
      yield [`${at}_attn.norm.key_norm.scale`, [128]]
      yield [`${at}_attn.proj.weight`, [dim, dim]]
      yield [`${at}_mlp.0.weight`, [6 * dim, dim]]
      yield [`${at}_mlp.2.weight`, [dim, 3 * dim]]
    }
  }
  for (let block = 0; block < single; block += 1) {
    yield [`single_blocks.${block}.linear1.weight`, [9 * dim, dim]]
    yield [`single_blocks.${block}.linear2.weight`, [dim, 4 * dim]]
    yield [`single_blocks.${block}.norm.query_norm.scale`, [128]]
    yield [`single_blocks.${block}.norm.key_norm.scale`, [128]]
  }
  yield ['final_layer.adaLN_modulation.1.weight', [2 * dim, dim]]
  yield ['final_layer.linear.weight', [128, dim]]
}

function writeHollow(file, geometry) {
  let end = 0
  const entries = [...weights(geometry)].map(([name, shape]) => {
    const start = end
    end += 2 * shape.reduce((count, extent) => count * extent, 1)
    return [name, { dtype: 'BF16', shape, data_offsets: [start, end] }]
  })
  const header = Buffer.from(JSON.stringify(Object.fromEntries(entries)))
  const length = Buffer.alloc(8)
  length.writeBigUInt64LE(BigInt(header.length))
  writeSync(openSync(file, 'w'), Buffer.concat([length, header]))
  truncateSync(file, 8 + header.length + end)
  return end / 2
}

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
    textEmbeddings: Tensor.randn([1, 512, geometry.joint], { seed: 2 }),
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
