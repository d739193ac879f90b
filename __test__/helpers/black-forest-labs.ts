import { readdirSync } from 'node:fs'
import { join } from 'node:path'
import { type StoredTensor, tensorsOf, writeTensors } from './safetensors'

const RENAMED: [RegExp, string][] = [
  [/^x_embedder/, 'img_in'],
  [/^context_embedder/, 'txt_in'],
  [/^time_guidance_embed\.timestep_embedder\.linear_1/, 'time_in.in_layer'],
  [/^time_guidance_embed\.timestep_embedder\.linear_2/, 'time_in.out_layer'],
  [/^time_guidance_embed\.guidance_embedder\.linear_1/, 'guidance_in.in_layer'],
  [/^time_guidance_embed\.guidance_embedder\.linear_2/, 'guidance_in.out_layer'],
  [/modulation(_img|_txt)?\.linear/, 'modulation$1.lin'],
  [/^norm_out\.linear/, 'final_layer.adaLN_modulation.1'],
  [/^proj_out/, 'final_layer.linear'],
  [/^single_transformer_blocks/, 'single_blocks'],
  [/^transformer_blocks/, 'double_blocks'],
  [/attn\.to_qkv_mlp_proj/, 'linear1'],
  [/^(single_blocks\.\d+)\.attn\.to_out/, '$1.linear2'],
  [/^(single_blocks\.\d+)\.(?:attn\.)?norm_([qk])\.weight/, '$1.norm.$2_norm.scale'],
  [/attn\.norm_added_([qk])\.weight/, 'txt_attn.norm.$1_norm.scale'],
  [/attn\.norm_([qk])\.weight/, 'img_attn.norm.$1_norm.scale'],
  [/\.q_norm\./, '.query_norm.'],
  [/\.k_norm\./, '.key_norm.'],
  [/attn\.to_out\.0/, 'img_attn.proj'],
  [/attn\.to_add_out/, 'txt_attn.proj'],
  [/ff\.linear_in/, 'img_mlp.0'],
  [/ff\.linear_out/, 'img_mlp.2'],
  [/ff_context\.linear_in/, 'txt_mlp.0'],
  [/ff_context\.linear_out/, 'txt_mlp.2'],
  [/attn\.to_q\./, 'img_attn.qkv.'],
  [/attn\.add_q_proj\./, 'txt_attn.qkv.'],
]

/** The file of a transformer's folder as Black Forest Labs would have written it, and ComfyUI with its prefix. */
export function writeAsBlackForestLabs(folder: string, file: string, prefix = ''): void {
  const parts = readdirSync(folder).filter((name) => name.endsWith('.safetensors'))
  const tensors = new Map(parts.flatMap((name) => tensorsOf(join(folder, name))).map((t) => [t.name, t]))
  const out: StoredTensor[] = []
  for (const tensor of tensors.values()) {
    if (/attn\.(to_[kv]|add_[kv]_proj)\./.test(tensor.name)) continue
    const name = prefix + RENAMED.reduce((name, [from, to]) => name.replace(from, to), tensor.name)
    out.push({ ...tensor, ...rearranged(tensor, tensors), name })
  }
  writeTensors(file, out)
}

function rearranged(tensor: StoredTensor, all: Map<string, StoredTensor>): Pick<StoredTensor, 'shape' | 'bytes'> {
  const { name, shape, bytes } = tensor
  if (/attn\.(to_q|add_q_proj)\./.test(name)) {
    const others = ['_k', '_v'].map((letter) => all.get(name.replace(/_q/, letter))?.bytes ?? Buffer.alloc(0))
    return { shape: [3 * (shape[0] ?? 0), ...shape.slice(1)], bytes: Buffer.concat([bytes, ...others]) }
  }
  if (!name.startsWith('norm_out')) return { shape, bytes }
  const half = bytes.length / 2
  return { shape, bytes: Buffer.concat([bytes.subarray(half), bytes.subarray(0, half)]) }
}
