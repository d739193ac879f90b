import { guard } from './errors'
import { type NativeFlux2Adapter, native } from './native'
import { Tensor } from './tensor'

export interface Flux2AdapterOptions {
  /** Guidance that a guidance-embedded model is told. Default 3.5. */
  guidanceScale?: number
  /** Whether the model has a guidance embedding (dev has, klein has not). Default true. */
  useGuidanceEmbeds?: boolean
}

/** What a step hands to its adapter. */
export interface FlowMatchingContext {
  /** x_t, `[batch, 128, height/16, width/16]`. */
  noisyLatents: Tensor
  /** `[batch, tokens, dim]`. */
  textEmbeddings: Tensor
  /** `[batch]`, 0..1000. */
  timesteps: Tensor
  /** `[batch]`, instead of the adapter's guidance scale. */
  guidance?: Tensor
  /** Per sample, whether its caption is dropped. Default: none is. */
  dropCaption?: boolean[]
  /** What stands in for a dropped caption, `[tokens, dim]`. Default: zeros. */
  emptyPrompt?: Tensor
}

/** What the transformer takes. */
export interface Flux2Inputs {
  /** `[batch, height·width, 128]`. */
  hiddenStates: Tensor
  /** `[batch, tokens, dim]`. */
  encoderHiddenStates: Tensor
  /** `[batch]`, 0..1. */
  timestep: Tensor
  /** int64 `[batch, height·width, 4]`, rows (0, h, w, 0), w fastest. */
  imgIds: Tensor
  /** int64 `[batch, tokens, 4]`, rows (0, 0, 0, position). */
  txtIds: Tensor
  /** float32 `[batch]`; absent when the model has no guidance embedding. */
  guidance?: Tensor
}

/** Between flow matching's latents and FLUX.2's token sequences. After NeMo Automodel's `adapters/flux2.py`. */
export class Flux2Adapter {
  readonly #handle: NativeFlux2Adapter

  constructor(options: Flux2AdapterOptions = {}) {
    this.#handle = guard(() => new (native().Flux2Adapter)(options))
  }

  /** @internal */
  static unwrap(adapter: Flux2Adapter): NativeFlux2Adapter {
    return adapter.#handle
  }

  /** `[batch, channels, height, width]` → `[batch, height·width, channels]`. */
  packLatents(latents: Tensor): Tensor {
    return guard(() => Tensor.wrap(this.#handle.packLatents(Tensor.unwrap(latents))))
  }

  /** `[batch, height·width, channels]` → `[batch, channels, height, width]`. */
  unpackLatents(packed: Tensor, height: number, width: number): Tensor {
    return guard(() => Tensor.wrap(this.#handle.unpackLatents(Tensor.unwrap(packed), height, width)))
  }

  /** int64 `[batch, height·width, 4]`, rows (0, h, w, 0), w fastest. */
  prepareLatentIds(height: number, width: number, batch: number): Tensor {
    return guard(() => Tensor.wrap(this.#handle.prepareLatentIds(height, width, batch)))
  }

  /** int64 `[batch, tokens, 4]`, rows (0, 0, 0, position). */
  prepareTextIds(tokens: number, batch: number): Tensor {
    return guard(() => Tensor.wrap(this.#handle.prepareTextIds(tokens, batch)))
  }

  /**
   * The transformer's inputs for a batch.
   *
   * @throws FlowtuneError `SHAPE_MISMATCH`, naming the rank, when the latents are not 4-D
   */
  prepareInputs(context: FlowMatchingContext): Flux2Inputs {
    return guard(() => {
      const inputs = this.#handle.prepareInputs(
        Tensor.unwrap(context.noisyLatents),
        Tensor.unwrap(context.textEmbeddings),
        Tensor.unwrap(context.timesteps),
        context.dropCaption ?? [],
        context.emptyPrompt && Tensor.unwrap(context.emptyPrompt),
        context.guidance && Tensor.unwrap(context.guidance),
      )
      return {
        hiddenStates: Tensor.wrap(inputs.hiddenStates),
        encoderHiddenStates: Tensor.wrap(inputs.encoderHiddenStates),
        timestep: Tensor.wrap(inputs.timestep),
        imgIds: Tensor.wrap(inputs.imgIds),
        txtIds: Tensor.wrap(inputs.txtIds),
        guidance: inputs.guidance && Tensor.wrap(inputs.guidance),
      }
    })
  }
}
