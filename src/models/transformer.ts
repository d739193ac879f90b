import { resolve } from 'node:path'
import { FlowtuneError, guard, guardAsync } from '../errors'
import { type NativeTransformer, type NativeWatch, native } from '../native'
import type { ComputeDtype, LoraRecipe, Quantization } from '../recipe-types'
import { Parameter } from '../tensor/parameter'
import { namesAndHandles, type StateDict } from '../tensor/safetensors'
import { Tensor } from '../tensor/tensor'
import { type WatchOptions, watched } from '../watch'
import { type ReferenceLatents, type ReferenceTokens, referenceHandles, referenceTokenHandles } from './references'

/**
 * Geometry of a transformer, with the keys of diffusers' `transformer/config.json`. What is left out is FLUX.2 dev's.
 */
export interface Flux2Config {
  /** Latent channels after the 2×2 patchify. Default 128. */
  in_channels?: number
  /** Channels of the prediction. Default: `in_channels`. */
  out_channels?: number | null
  /** Double-stream blocks. Default 8. */
  num_layers?: number
  /** Single-stream blocks. Default 48. */
  num_single_layers?: number
  /** Width of a head. Default 128. */
  attention_head_dim?: number
  /** Heads. Default 48. */
  num_attention_heads?: number
  /** Width of the text embeddings. Default 15360. */
  joint_attention_dim?: number
  /** Width of the sinusoid of timestep and guidance. Default 256. */
  timestep_guidance_channels?: number
  /** Hidden width of the feed-forward layers, in model widths. Default 3. */
  mlp_ratio?: number
  /** Head channels per position axis (t, h, w, l). Default 32 each. */
  axes_dims_rope?: number[]
  /** Base of the rotary frequencies. Default 2000. */
  rope_theta?: number
  /** Added to variances. Default 1e-6. */
  eps?: number
  /** Whether the model is told the guidance scale. Default true. */
  guidance_embeds?: boolean
}

/** In what types a transformer is loaded. */
export interface LoadOptions {
  /** Type of activations, and of weights. Default `float32`. */
  dtype?: ComputeDtype
  /** What the weights of a frozen base are kept in instead. Default `none`. */
  quantization?: Quantization
  /** Keep the weights in float32, whatever they are multiplied in, so that all of them can be trained. Default false. */
  trainable?: boolean
}

/** What the transformer takes. */
export interface Flux2Inputs {
  /** Packed noisy latents, `[batch, height·width, 128]`. */
  hiddenStates: Tensor<3>
  /** Text embeddings, `[batch, tokens, dim]`. */
  encoderHiddenStates: Tensor<3>
  /** σ, `[batch]`, 0..1. */
  timestep: Tensor<1>
  /** int64 `[batch, height·width, 4]`, rows (0, h, w, 0), w fastest. */
  imgIds: Tensor<3>
  /** int64 `[batch, tokens, 4]`, rows (0, 0, 0, position). */
  txtIds: Tensor<3>
  /** float32 `[batch]`; absent when the model has no guidance embedding. */
  guidance?: Tensor<1>
  /** Per sample, the reference images that it is edited from; absent when no sample has any. */
  references?: ReadonlyArray<ReferenceTokens | undefined>
}

/** Options of {@link Flux2Transformer.forward}. */
export interface ForwardOptions {
  /** Whether a gradient may flow back through the prediction. Default true. */
  grad?: boolean
}

/** Options of {@link Flux2Transformer.addLora}. */
export interface LoraOptions extends Omit<LoraRecipe, 'from'> {
  /** A starts random, from this and the module's name. Default 0. */
  seed?: number
}

/** What to sample. */
export interface SampleLatentsOptions extends WatchOptions {
  /** `[batch, tokens, dim]`, of {@link TextEncoder.encode}. */
  textEmbeddings: Tensor<3>
  /** Of the negative or the empty prompt, for classifier-free guidance. */
  negativeTextEmbeddings?: Tensor<3>
  /** Gaussian noise, `[batch, 128, height/16, width/16]`: {@link Tensor.randn}. */
  initialLatents: Tensor<4>
  /** Euler steps. Default 28. */
  steps?: number
  /**
   * Scale of classifier-free guidance (with negative embeddings, above 1), or the guidance that the model is told (with
   * a guidance embedding). Default 4.
   */
  guidanceScale?: number
  /**
   * Per sample, the latents of the images that it is made from: {@link AutoencoderKLFlux2.encodeImages}. Guided and unguided
   * predictions both see them.
   */
  references?: ReferenceLatents
}

/**
 * The FLUX.2 transformer, `Flux2Transformer2DModel` of diffusers: noisy latents, text and σ in, velocity ε − x₀ out.
 * Weights are frozen until {@link addLora} or {@link setTrainable}. Inputs and
 * predictions are float32, whatever it computes in.
 */
export class Flux2Transformer {
  /** Geometry, complete. */
  readonly config: Readonly<Required<Flux2Config>>
  /** Recompute each block in the backward pass instead of keeping its activations. Default true. */
  activationCheckpointing = true
  /**
   * Instead of all or none: keep the activations of as many blocks as fit while all tensors of the process take at most this
   * many gigabytes (10⁹ bytes), and recompute the others. Of what is kept, what is cheap is recomputed too.
   */
  memoryBudget?: number
  readonly #handle: NativeTransformer

  private constructor(handle: NativeTransformer) {
    this.#handle = handle
    this.config = guard(() => JSON.parse(handle.config()) as Required<Flux2Config>)
  }

  /**
   * Loads the transformer of a model folder, or of a folder or file of its own: diffusers' layout, Black Forest Labs' or
   * ComfyUI's as `.safetensors`, or `.gguf`. A hub's is fetched first.
   *
   * @param path a path, or `owner/name` of a model on a hub, or `owner/name/file.safetensors`; `@revision` behind it
   * @param options types of weights and of computation. Default: float32, not quantised
   * @throws FlowtuneError `CHECKPOINT_LAYOUT`, `WEIGHTS_MISSING`, `SHAPE_MISMATCH` naming file and tensor; `HUB_…`
   */
  static async load(path: string, options: LoadOptions & WatchOptions = {}): Promise<Flux2Transformer> {
    const { signal, onProgress, onWarning, ...types } = options
    const load = (...watch: NativeWatch) => native().Flux2Transformer.load(path, JSON.stringify(types), ...watch)
    return new Flux2Transformer(await watched({ signal, onProgress, onWarning }, load))
  }

  /**
   * A transformer of this geometry.
   *
   * @param config what is left out is FLUX.2 dev's
   * @param from `weights` under diffusers' names, float32; or a `seed` for random ones (PyTorch's initialisation of
   * linear layers, norms at 1). Default: seed 0. With them, types of weights and of computation
   * @throws FlowtuneError `WEIGHTS_MISSING`, `SHAPE_MISMATCH`, `RECIPE_INVALID` for a key or value that is no geometry
   */
  static async fromConfig(
    config: Flux2Config,
    from: ({ weights: StateDict; seed?: never } | { seed?: number; weights?: never }) & LoadOptions = {},
  ): Promise<Flux2Transformer> {
    const [names, handles] = namesAndHandles(from.weights ?? {})
    const seed = from.weights ? undefined : (from.seed ?? 0)
    const { weights: _weights, seed: _seed, ...options } = from
    const [json, optionsJson] = [JSON.stringify(config), JSON.stringify(options)]
    return new Flux2Transformer(
      await guardAsync(() => native().Flux2Transformer.fromConfig(json, names, handles, seed, optionsJson)),
    )
  }

  /** All weights: the base model's in checkpoint order, then those of the adapters. */
  get parameters(): Parameter[] {
    return this.#handle.parameters().map((handle) => new Parameter(handle))
  }

  /** Those of {@link parameters} that receive gradients. */
  get trainableParameters(): Parameter[] {
    return this.parameters.filter((parameter) => parameter.trainable)
  }

  /**
   * Freezes or unfreezes every weight: `setTrainable(true)` is full fine-tuning.
   *
   * @throws FlowtuneError `INVALID_ARGUMENT` when the weights are not float32; see {@link LoadOptions.trainable}
   */
  setTrainable(trainable: boolean): void {
    if (trainable && this.parameters.some(({ dtype }) => dtype !== 'float32')) {
      const advice = 'load the model with trainable: true to train all of it, or call addLora'
      throw new FlowtuneError('INVALID_ARGUMENT', `weights that are not float32 would lose their updates; ${advice}`)
    }
    for (const parameter of this.parameters) parameter.trainable = trainable
  }

  /**
   * Predicts the velocity, of the image that is made and not of references. Samples with equally many reference tokens run
   * together.
   *
   * @returns `[batch, height·width, 128]`
   * @throws FlowtuneError `SHAPE_MISMATCH` naming the input that does not fit
   */
  async forward(inputs: Flux2Inputs, { grad = true }: ForwardOptions = {}): Promise<Tensor<3>> {
    const handles = {
      hiddenStates: Tensor.unwrap(inputs.hiddenStates),
      encoderHiddenStates: Tensor.unwrap(inputs.encoderHiddenStates),
      timestep: Tensor.unwrap(inputs.timestep),
      imgIds: Tensor.unwrap(inputs.imgIds),
      txtIds: Tensor.unwrap(inputs.txtIds),
      guidance: inputs.guidance && Tensor.unwrap(inputs.guidance),
      references: inputs.references?.map((tokens) => tokens && referenceTokenHandles(tokens)),
    }
    const { activationCheckpointing, memoryBudget } = this
    const prediction = () => this.#handle.forward(handles, grad, activationCheckpointing, memoryBudget)
    return Tensor.wrap(await guardAsync(prediction))
  }

  /**
   * Puts fresh low-rank adapters on the model and makes them the only trainable weights. A starts as PEFT's, B at zero.
   *
   * @param options defaults: `rank` 16, `alpha` 16, `targets` every linear of both block kinds except modulation and norms
   * @returns the adapters' weights, `MODULE.lora_A.weight` `[rank, in]` and `MODULE.lora_B.weight` `[out, rank]`
   * @throws FlowtuneError `RECIPE_INVALID`; `CHECKPOINT_LAYOUT` when a target selects no layer
   */
  async addLora({ seed = 0, ...options }: LoraOptions = {}): Promise<Parameter[]> {
    const handles = await guardAsync(() => this.#handle.addLora(JSON.stringify(options), seed))
    return handles.map((handle) => new Parameter(handle))
  }

  /**
   * Puts the adapters of a file on the model, trainable: one that {@link saveLora} wrote, or another program's in any
   * {@link LoraFormat}.
   *
   * @param path the file or its folder
   * @throws FlowtuneError `CHECKPOINT_LAYOUT` naming the tensor that does not fit
   */
  async loadLora(path: string): Promise<Parameter[]> {
    const handles = await guardAsync(() => this.#handle.loadLora(resolve(path)))
    return handles.map((handle) => new Parameter(handle))
  }

  /**
   * Writes the adapters as `pytorch_lora_weights.safetensors`, for diffusers' `load_lora_weights(folder)`.
   *
   * @param folder is made if it is not there
   * @returns the file
   * @throws FlowtuneError `INVALID_ARGUMENT` when the model has no adapters; `IO`
   */
  async saveLora(folder: string): Promise<string> {
    return guardAsync(() => this.#handle.saveLora(resolve(folder)))
  }

  /** Takes the adapters off. */
  removeLora(): void {
    this.#handle.removeLora()
  }

  /**
   * Writes the whole transformer in diffusers' layout, without adapters.
   *
   * @param folder is made if it is not there
   * @throws FlowtuneError `IO`
   */
  async save(folder: string, { dtype = 'float32' }: { dtype?: 'float32' | 'bfloat16' } = {}): Promise<string> {
    return guardAsync(() => this.#handle.save(resolve(folder), dtype))
  }

  /**
   * Samples latents with Euler steps on FLUX.2's schedule.
   *
   * @returns `[batch, 128, height/16, width/16]`, for {@link AutoencoderKLFlux2.decodeLatents}
   * @throws FlowtuneError `SHAPE_MISMATCH`, `CANCELLED`
   */
  async sample({ steps = 28, guidanceScale = 4, ...options }: SampleLatentsOptions): Promise<Tensor<4>> {
    const inputs = {
      textEmbeddings: Tensor.unwrap(options.textEmbeddings),
      negativeTextEmbeddings: options.negativeTextEmbeddings && Tensor.unwrap(options.negativeTextEmbeddings),
      initialLatents: Tensor.unwrap(options.initialLatents),
      steps,
      guidanceScale,
      references: referenceHandles(options.references),
    }
    return Tensor.wrap(await watched(options, (cancel, onEvent) => this.#handle.sample(inputs, cancel, onEvent)))
  }
}
