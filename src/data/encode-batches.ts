import { FlowtuneError } from '../errors'
import type { Batch } from '../flow/context'
import type { AutoencoderKLFlux2 } from '../models/autoencoder'
import type { TextEncoder, TokenOptions } from '../models/text-encoder'
import { Tensor } from '../tensor/tensor'
import { loadImage } from './image'

/** A captioned image from anywhere. */
export interface CaptionedImage {
  /** A file, the bytes of one (PNG, JPEG, WebP), or pixels `[3, height, width]` in −1..1 with sides multiples of 16. */
  image: string | Uint8Array | Tensor<3>
  /** What it shows. */
  caption: string
}

/** Options of {@link DataLoader.from}. */
export interface EncodeBatchesOptions extends TokenOptions {
  /** Makes latents of images. */
  vae: AutoencoderKLFlux2
  /** Makes embeddings of captions. */
  textEncoder: TextEncoder
  /** Side of the square that files are resized and cropped to, in pixels; a multiple of 16. Default 512. */
  resolution?: number
  /** Samples of a batch. Default 1. */
  batchSize?: number
}

/** @internal See {@link DataLoader.from}. */
export async function* encodeBatches(
  source: Iterable<CaptionedImage> | AsyncIterable<CaptionedImage>,
  options: EncodeBatchesOptions,
): AsyncGenerator<Batch, void, void> {
  const { batchSize = 1 } = options
  const encoder = new SampleEncoder(options)
  const waiting = new Map<string, Batch[]>()
  for await (const item of source) {
    const sample = await encoder.encode(item)
    const size = sample.imageLatents.shape.join('×')
    const samples = [...(waiting.get(size) ?? []), sample]
    waiting.set(size, samples.length < batchSize ? samples : [])
    if (samples.length === batchSize) yield joined(samples)
  }
  for (const samples of waiting.values()) if (samples.length > 0) yield joined(samples)
}

/** Latents and embeddings of one sample. Captions that were seen lately are remembered. */
class SampleEncoder {
  /** Captions to remember: of the largest model an embedding takes 31 MB. */
  static readonly #REMEMBERED = 64
  readonly #captions = new Map<string, Tensor<3>>()

  constructor(readonly options: EncodeBatchesOptions) {}

  async encode({ image, caption }: CaptionedImage): Promise<Batch> {
    const { vae, resolution = 512 } = this.options
    const size = { width: resolution, height: resolution }
    const pixels = image instanceof Tensor ? image : await loadImage(image, size)
    const [channels, height = 0, width = 0] = pixels.shape
    if (pixels.shape.length !== 3 || channels !== 3) {
      throw new FlowtuneError('SHAPE_MISMATCH', `image must have shape [3, height, width], got [${pixels.shape}]`)
    }
    const imageLatents = await vae.encodeImages(pixels.reshape([1, 3, height, width]))
    return { imageLatents, textEmbeddings: await this.#caption(caption) }
  }

  async #caption(caption: string): Promise<Tensor<3>> {
    const { textEncoder, textTokens } = this.options
    const embeddings = this.#captions.get(caption) ?? (await textEncoder.encode(caption, { textTokens }))
    // Set again, so that the first key is the one that was used longest ago.
    this.#captions.delete(caption)
    this.#captions.set(caption, embeddings)
    const oldest = this.#captions.keys().next().value
    if (this.#captions.size > SampleEncoder.#REMEMBERED && oldest !== undefined) this.#captions.delete(oldest)
    return embeddings
  }
}

function joined(samples: Batch[]): Batch {
  return {
    imageLatents: Tensor.cat(samples.map((sample) => sample.imageLatents)),
    textEmbeddings: Tensor.cat(samples.map((sample) => sample.textEmbeddings)),
  }
}
