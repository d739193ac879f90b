import { guard, guardAsync } from '../errors'
import { referenceHandles, wrapReferenceTokens } from '../models/references'
import type { Flux2Inputs, Flux2Transformer } from '../models/transformer'
import { type NativeBatch, type NativeFlux2Adapter, native } from '../native'
import { Tensor } from '../tensor/tensor'
import type { Batch, FlowMatchingContext } from './context'
import { ModelAdapter } from './model-adapter'

/** Options of {@link Flux2Adapter}. */
export interface Flux2AdapterOptions {
  /** Guidance that a guidance-embedded model is told. Default 3.5. */
  guidanceScale?: number
  /** Whether the model has a guidance embedding (dev has, klein has not). Default true. */
  useGuidanceEmbeds?: boolean
}

/** The part of a context that the inputs are made of; enough to call {@link Flux2Adapter.prepareInputs} by hand. */
export type Flux2Context<B extends Batch = Batch> = Pick<
  FlowMatchingContext<B>,
  'noisyLatents' | 'timesteps' | 'batch'
> &
  Partial<FlowMatchingContext<B>>

/**
 * Between flow matching's latents and FLUX.2's token sequences. After NeMo Automodel's `adapters/flux2.py`.
 *
 * @typeParam B - the batch, with the keys that a subclass adds
 */
export class Flux2Adapter<B extends Batch = Batch> extends ModelAdapter<Flux2Inputs, B> {
  readonly #handle: NativeFlux2Adapter

  /** An adapter; what is left out has the default of NeMo Automodel. */
  constructor(options: Flux2AdapterOptions = {}) {
    super()
    this.#handle = guard(() => new (native().Flux2Adapter)(options))
  }

  /** The keys of {@link Batch}. A subclass that takes more adds its own. */
  override get batchKeys(): readonly string[] | undefined {
    return ['imageLatents', 'textEmbeddings', 'lossMask', 'guidance', 'references']
  }

  /** `[batch, channels, height, width]` → `[batch, height·width, channels]`. */
  packLatents(latents: Tensor<4>): Tensor<3> {
    return guard(() => Tensor.wrap(this.#handle.packLatents(Tensor.unwrap(latents))))
  }

  /** `[batch, height·width, channels]` → `[batch, channels, height, width]`. */
  unpackLatents(packed: Tensor<3>, height: number, width: number): Tensor<4> {
    return guard(() => Tensor.wrap(this.#handle.unpackLatents(Tensor.unwrap(packed), height, width)))
  }

  /** int64 `[batch, height·width, 4]`, rows (0, h, w, 0), w fastest. */
  prepareLatentIds(height: number, width: number, batch: number): Tensor<3> {
    return guard(() => Tensor.wrap(this.#handle.prepareLatentIds(height, width, batch)))
  }

  /** int64 `[batch, tokens, 4]`, rows (0, 0, 0, position). */
  prepareTextIds(tokens: number, batch: number): Tensor<3> {
    return guard(() => Tensor.wrap(this.#handle.prepareTextIds(tokens, batch)))
  }

  /**
   * int64 `[1, Σ height·width, 4]` for the references of one sample, `[128, height, width]` or `[1, 128, height, width]` each:
   * rows (10 + 10·i, h, w, 0) of reference i, w fastest. After diffusers' `_prepare_image_ids`.
   */
  prepareImageIds(references: ReadonlyArray<Tensor<3> | Tensor<4>>): Tensor<3> {
    return guard(() => Tensor.wrap(this.#handle.prepareImageIds(references.map((each) => Tensor.unwrap(each)))))
  }

  /**
   * The transformer's inputs for a batch, dropped captions replaced. References stay beside the noisy tokens, one entry per
   * sample, since samples may have different numbers of them.
   *
   * @throws FlowtuneError `SHAPE_MISMATCH`, naming the rank, when the latents are not 4-D
   */
  async prepareInputs(context: Flux2Context<B>): Promise<Flux2Inputs> {
    const { noisyLatents, timesteps, dropCaption = [], emptyPrompt, batch } = context
    const inputs = await guardAsync(() =>
      this.#handle.prepareInputs(
        batchHandles(batch),
        Tensor.unwrap(noisyLatents),
        Tensor.unwrap(timesteps),
        [...dropCaption],
        emptyPrompt && Tensor.unwrap(emptyPrompt),
      ),
    )
    return {
      hiddenStates: Tensor.wrap(inputs.hiddenStates),
      encoderHiddenStates: Tensor.wrap(inputs.encoderHiddenStates),
      timestep: Tensor.wrap(inputs.timestep),
      imgIds: Tensor.wrap(inputs.imgIds),
      txtIds: Tensor.wrap(inputs.txtIds),
      guidance: inputs.guidance && Tensor.wrap(inputs.guidance),
      references: inputs.references?.map((tokens) => (tokens ? wrapReferenceTokens(tokens) : undefined)),
    }
  }

  /** Runs the transformer and unpacks its prediction, `[batch, 128, h, w]`. */
  async forward(model: Flux2Transformer, inputs: Flux2Inputs, context: Flux2Context<B>): Promise<Tensor<4>> {
    const [, , height = 0, width = 0] = context.noisyLatents.shape
    const prediction = await model.forward(inputs, { grad: context.grad ?? true })
    return this.unpackLatents(prediction, height, width)
  }
}

/** @internal A batch as the core takes it. */
export function batchHandles({ imageLatents, textEmbeddings, lossMask, guidance, references }: Batch): NativeBatch {
  return {
    imageLatents: Tensor.unwrap(imageLatents),
    textEmbeddings: Tensor.unwrap(textEmbeddings),
    lossMask: lossMask && Tensor.unwrap(lossMask),
    guidance: guidance && Tensor.unwrap(guidance),
    references: referenceHandles(references),
  }
}
