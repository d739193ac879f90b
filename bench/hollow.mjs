// A transformer's file of the real layout and size with a header and holes for weights: it takes no room on the disk, and
// zeros are read as any other numbers.

import { openSync, truncateSync, writeSync } from 'node:fs'

/** Width, double and single blocks, width of the text embeddings, guidance embedding. */
export const GEOMETRIES = {
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

/** Writes the file, and returns how many numbers it has. */
export function writeHollow(file, geometry) {
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
