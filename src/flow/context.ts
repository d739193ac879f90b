import type { ReferenceLatents } from '../models/references'
import type { Tensor } from '../tensor/tensor'

/** A batch of training data. Adapters of one's own may ask for more: extend it. */
export interface Batch {
  /** Patchified, BN-normalised latents x₀, float32 `[batch, 128, height/16, width/16]`: {@link AutoencoderKLFlux2.encodeImages}. */
  imageLatents: Tensor<4>
  /** Text embeddings, float32 `[batch, tokens, dim]`: {@link TextEncoder.encode}. */
  textEmbeddings: Tensor<3>
  /** 0 leaves an element out of the loss, which is the mean over the others. `[batch, 1 or 128, h, w]`. */
  lossMask?: Tensor<4>
  /** Guidance per sample, `[batch]`, instead of the adapter's. */
  guidance?: Tensor<1>
  /**
   * Per sample, the images that it is edited from, in order: latents without noise, float32 `[128, h, w]` or `[1, 128, h, w]`,
   * of any size ({@link AutoencoderKLFlux2.encodeImages}). Samples may have different numbers of them, or none. The loss is on
   * `imageLatents` alone.
   */
  references?: ReferenceLatents
}

/**
 * Everything about one step that an adapter may need. After NeMo Automodel's `FlowMatchingContext`.
 *
 * @typeParam B - the batch, with the keys that an adapter of one's own adds
 */
export interface FlowMatchingContext<B extends Batch = Batch> {
  /** x_t = (1 − σ)·x₀ + σ·ε, `[batch, 128, h, w]`. */
  noisyLatents: Tensor<4>
  /** x₀, `[batch, 128, h, w]`. */
  latents: Tensor<4>
  /** ε, `[batch, 128, h, w]`. */
  noise: Tensor<4>
  /** 1000 · σ, `[batch]`. */
  timesteps: Tensor<1>
  /** σ, `[batch]`, 0..1. */
  sigma: Tensor<1>
  /** Weight of each sample in the loss, `[batch]`. */
  weight: Tensor<1>
  /** Text to image. */
  taskType: 't2i'
  /** Images. */
  dataType: 'image'
  /** Where the tensors are. */
  device: 'cpu'
  /** The compute type. */
  dtype: 'float32'
  /** Probability of dropping a caption. */
  cfgDropoutProb: number
  /** Per sample, whether its caption is dropped in this step. */
  dropCaption: readonly boolean[]
  /** What stands in for a dropped caption, `[tokens, dim]`; zeros when absent. */
  emptyPrompt?: Tensor<2>
  /** Whether a gradient is wanted: false in an evaluation. */
  grad: boolean
  /** The data. */
  batch: B
}
