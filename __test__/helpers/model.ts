import { type Batch, type Flux2Config, Flux2Transformer, type Parameter, Tensor } from '../../src/index'

/** A very small transformer: a step takes a few milliseconds. */
export const tinyConfig = {
  in_channels: 8,
  num_layers: 1,
  num_single_layers: 1,
  attention_head_dim: 8,
  num_attention_heads: 2,
  joint_attention_dim: 6,
  timestep_guidance_channels: 16,
  axes_dims_rope: [2, 2, 2, 2],
  guidance_embeds: false,
} satisfies Flux2Config

export function tinyModel(config: Flux2Config = {}, seed = 1): Promise<Flux2Transformer> {
  return Flux2Transformer.fromConfig({ ...tinyConfig, ...config }, { seed })
}

/** Adapters whose B is not zero, so that every gradient shows. */
export async function addLora(model: Flux2Transformer, rank = 2): Promise<Parameter[]> {
  const parameters = await model.addLora({ rank, alpha: rank })
  parameters.forEach((parameter, i) => {
    if (parameter.name.includes('lora_B')) parameter.assign(Tensor.randn(parameter.shape, { seed: 100 + i }).mul(0.1))
  })
  return parameters
}

/** Random latents and embeddings for {@link tinyModel}. */
export function tinyBatch(samples = 2, seed = 10): Batch {
  return {
    imageLatents: Tensor.randn([samples, tinyConfig.in_channels, 3, 2], { seed }),
    textEmbeddings: Tensor.randn([samples, 4, tinyConfig.joint_attention_dim], { seed: seed + 1 }),
  }
}

/** Elements of a tensor as an array, for matchers. */
export function values(tensor: Tensor | undefined): number[] {
  return tensor ? [...tensor.toFloat64Array()] : []
}

/** max|a − b| / max|b|. */
export function distance(a: readonly number[], b: readonly number[]): number {
  const largest = Math.max(...b.map(Math.abs), Number.MIN_VALUE)
  return Math.max(...a.map((x, i) => Math.abs(x - (b[i] ?? Number.NaN)))) / largest
}
