import { guardAsync } from '../errors'
import { type NativeAutoencoder, type NativeWatch, native } from '../native'
import { namesAndHandles, type StateDict } from '../tensor/safetensors'
import { Tensor } from '../tensor/tensor'
import { type WatchOptions, watched } from '../watch'

/** The VAE of FLUX.2, `AutoencoderKLFlux2` of diffusers: images to latents and back, in float32, without gradients. */
export class AutoencoderKLFlux2 {
  readonly #handle: NativeAutoencoder

  private constructor(handle: NativeAutoencoder) {
    this.#handle = handle
  }

  /**
   * Loads the VAE of a model folder in diffusers' layout. That of a hub's model is fetched first.
   *
   * @param model a folder, or `owner/name` of a model on a hub, `@revision` behind it
   * @throws FlowtuneError `CHECKPOINT_LAYOUT`, `WEIGHTS_MISSING`, `SHAPE_MISMATCH` naming file and tensor; `HUB_…`
   */
  static async load(model: string, watch: WatchOptions = {}): Promise<AutoencoderKLFlux2> {
    const load = (...watch: NativeWatch) => native().AutoencoderKLFlux2.load(model, ...watch)
    return new AutoencoderKLFlux2(await watched(watch, load))
  }

  /**
   * A VAE with the keys of diffusers' `vae/config.json` and weights under diffusers' names.
   *
   * @throws FlowtuneError `WEIGHTS_MISSING`, `SHAPE_MISMATCH`, `RECIPE_INVALID`
   */
  static async fromConfig(config: Record<string, unknown>, weights: StateDict): Promise<AutoencoderKLFlux2> {
    const [names, handles] = namesAndHandles(weights)
    const json = JSON.stringify(config)
    return new AutoencoderKLFlux2(await guardAsync(() => native().AutoencoderKLFlux2.fromConfig(json, names, handles)))
  }

  /**
   * What the transformer trains on.
   *
   * @param images `[batch, 3, height, width]` in −1..1, sides multiples of 16
   * @returns `[batch, 128, height/16, width/16]`: {@link AutoencoderKLFlux2.encode}, then {@link AutoencoderKLFlux2.imageLatents}
   */
  async encodeImages(images: Tensor<4>): Promise<Tensor<4>> {
    return this.#run('encodeImages', images)
  }

  /**
   * Images of latents: {@link AutoencoderKLFlux2.vaeLatents}, then {@link AutoencoderKLFlux2.decode}, then from −1..1 to 0..1.
   *
   * @param imageLatents `[batch, 128, h, w]`
   * @returns `[batch, 3, 16·h, 16·w]` in 0..1
   */
  async decodeLatents(imageLatents: Tensor<4>): Promise<Tensor<4>> {
    return this.#run('decodeLatents', imageLatents)
  }

  /** Mode of the posterior: `[batch, 3, height, width]` in −1..1 → `[batch, 32, height/8, width/8]`. */
  async encode(images: Tensor<4>): Promise<Tensor<4>> {
    return this.#run('encode', images)
  }

  /** Patchifies and normalises: mode `[batch, 32, h, w]` → `[batch, 128, h/2, w/2]`. */
  async imageLatents(mode: Tensor<4>): Promise<Tensor<4>> {
    return this.#run('imageLatents', mode)
  }

  /** The inverse of {@link AutoencoderKLFlux2.imageLatents}: `[batch, 128, h, w]` → `[batch, 32, 2·h, 2·w]`. */
  async vaeLatents(imageLatents: Tensor<4>): Promise<Tensor<4>> {
    return this.#run('vaeLatents', imageLatents)
  }

  /** `[batch, 32, h, w]` → `[batch, 3, 8·h, 8·w]`, about −1..1, not clamped. */
  async decode(latent: Tensor<4>): Promise<Tensor<4>> {
    return this.#run('decode', latent)
  }

  async #run(operation: keyof NativeAutoencoder, input: Tensor<4>): Promise<Tensor<4>> {
    return Tensor.wrap(await guardAsync(() => this.#handle[operation](Tensor.unwrap(input))))
  }
}
