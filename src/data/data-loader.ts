import { guardAsync } from '../errors'
import type { Batch } from '../flow/context'
import { type NativeLoader, native } from '../native'
import type { DataRecipe } from '../recipe-types'
import { Tensor } from '../tensor/tensor'
import { type WatchOptions, watched } from '../watch'
import { type CaptionedImage, type EncodeBatchesOptions, encodeBatches } from './encode-batches'

/** A batch and what it was made of. */
export interface LoadedBatch {
  /** For {@link FlowMatchingPipeline.step}. */
  batch: Batch
  /** Captions of the samples. */
  captions: string[]
  /** Files of the samples. */
  paths: string[]
}

/** Options of {@link DataLoader.open}: a recipe's `data`, and what a recipe says elsewhere. */
export interface DataLoaderOptions extends DataRecipe, WatchOptions {
  /** Model folder or hub's id, whose VAE and text encoder fill the cache. They are freed when it is full. */
  model: string
  /** Samples of a batch. Default 1. */
  batchSize?: number
  /** Seed of the order. Default 0. */
  seed?: number
}

/**
 * Batches from folders of captioned images, through a cache of latents and text embeddings.
 *
 * Batch number n is a function of the seed and n alone, so a resumed script asks for batch n and has it. Batches have
 * latents of one shape, and every sample is seen as often as its source says; while one is used, the next is read.
 */
export class DataLoader implements AsyncIterable<Batch> {
  /** The images that were set aside (`heldOut`, `heldOutCount`). */
  readonly heldOut: DataLoader | undefined
  /** Samples. */
  readonly samples: number
  /** Samples of a batch. */
  readonly batchSize: number
  readonly #handle: NativeLoader

  private constructor(handle: NativeLoader, batchSize: number, heldOut?: DataLoader) {
    this.#handle = handle
    this.samples = handle.samples
    this.batchSize = batchSize
    this.heldOut = heldOut
  }

  /**
   * Opens the images with what belongs to them, and encodes what the cache lacks.
   *
   * @throws FlowtuneError `RECIPE_INVALID`, `DATA_UNREADABLE` naming the file, `CANCELLED`
   */
  static async open(options: DataLoaderOptions): Promise<DataLoader> {
    const { model, batchSize = 1, seed = 0, signal, onProgress, onWarning, ...data } = options
    const recipe = {
      model: { path: model, allowDistilled: true },
      data,
      train: { steps: 1, batchSize, seed },
      // Only to place the cache where none is named.
      output: { dir: 'runs/run' },
    }
    const json = JSON.stringify(recipe)
    const { train, heldOut } = await watched({ signal, onProgress, onWarning }, (cancel, onEvent) =>
      native().openLoaders(json, process.cwd(), cancel, onEvent),
    )
    return new DataLoader(train, batchSize, heldOut && new DataLoader(heldOut, batchSize))
  }

  /**
   * Batches from one's own iterable of captioned images: a database, a download, a generator. Images are encoded as they
   * come and not cached; equal captions are encoded once. A batch holds images of one size; what is left over at the end
   * comes as smaller batches.
   *
   * @throws FlowtuneError `DATA_UNREADABLE` for an image that cannot be read
   */
  static from(
    source: Iterable<CaptionedImage> | AsyncIterable<CaptionedImage>,
    options: EncodeBatchesOptions,
  ): AsyncGenerator<Batch, void, void> {
    return encodeBatches(source, options)
  }

  /** Embeddings of the empty prompt, `[tokens, dim]`: for {@link FlowMatchingPipelineOptions.emptyPrompt}. */
  get emptyPrompt(): Tensor<2> {
    return Tensor.wrap(this.#handle.emptyPrompt)
  }

  /** Batches with as many samples as there are, rounded up. */
  get batchesPerEpoch(): number {
    return Math.ceil(this.samples / this.batchSize)
  }

  /**
   * Batch number `index`, from 0. There is no last one.
   *
   * @throws FlowtuneError `CACHE_STALE` when a cache entry vanished or was damaged
   */
  async batch(index: number): Promise<Batch> {
    return (await this.load(index)).batch
  }

  /** As {@link batch}, with captions and file names. */
  async load(index: number): Promise<LoadedBatch> {
    return toBatch(await guardAsync(() => this.#handle.batch(index)))
  }

  /** The samples with these numbers, from 0; they must have latents of one shape. */
  async gather(samples: readonly number[]): Promise<LoadedBatch> {
    return toBatch(await guardAsync(() => this.#handle.gather([...samples])))
  }

  /** Batches from number `start` on, up to but without `end`; without `end` for ever. */
  async *batches({ start = 0, end = Number.POSITIVE_INFINITY } = {}): AsyncGenerator<Batch, void, void> {
    for (let index = start; index < end; index += 1) yield await this.batch(index)
  }

  /** All batches from the first on, for ever: leave the loop with `break`. */
  [Symbol.asyncIterator](): AsyncGenerator<Batch, void, void> {
    return this.batches()
  }
}

function toBatch(loaded: Awaited<ReturnType<NativeLoader['batch']>>): LoadedBatch {
  const { imageLatents, textEmbeddings, lossMask, references, captions, paths } = loaded
  const batch: Batch = { imageLatents: Tensor.wrap<4>(imageLatents), textEmbeddings: Tensor.wrap<3>(textEmbeddings) }
  if (lossMask) batch.lossMask = Tensor.wrap<4>(lossMask)
  if (references.length > 0) batch.references = references.map((list) => list.map((each) => Tensor.wrap<4>(each)))
  return { batch, captions, paths }
}
