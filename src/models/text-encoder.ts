import { guardAsync } from '../errors'
import { type NativeTextEncoder, type NativeWatch, native } from '../native'
import { namesAndHandles, type StateDict } from '../tensor/safetensors'
import { Tensor } from '../tensor/tensor'
import { type WatchOptions, watched } from '../watch'

/** Prompts as token ids. */
export interface TokenizedPrompts {
  /** int64 `[batch, tokens]`. */
  inputIds: Tensor<2>
  /** int64 `[batch, tokens]`; 0 is padding. */
  attentionMask: Tensor<2>
  /** What the chat template made of the prompts. */
  texts: string[]
  /** Per prompt, whether it had more tokens than fit. */
  truncated: boolean[]
}

/** Length of token sequences. */
export interface TokenOptions {
  /** Tokens a prompt is padded or cut to. Default: what the model's pipeline uses. */
  textTokens?: number
}

/** FLUX.2's text encoder with its tokenizer and chat template: Qwen3 for klein, Mistral3 for dev. */
export class TextEncoder {
  readonly #handle: NativeTextEncoder

  private constructor(handle: NativeTextEncoder) {
    this.#handle = handle
  }

  /**
   * Loads the text encoder, as far as FLUX.2 needs it, and the tokenizer of a model folder in diffusers' layout. Those of
   * a hub's model are fetched first.
   *
   * @param model a folder, or `owner/name` of a model on a hub, `@revision` behind it
   * @throws FlowtuneError `CHECKPOINT_LAYOUT`, `WEIGHTS_MISSING`, `SHAPE_MISMATCH` naming file and tensor; `HUB_…`
   */
  static async load(model: string, watch: WatchOptions = {}): Promise<TextEncoder> {
    const load = (...watch: NativeWatch) => native().TextEncoder.load(model, ...watch)
    return new TextEncoder(await watched(watch, load))
  }

  /**
   * An encoder without a tokenizer.
   *
   * @param config keys of transformers' `config.json`, with `model_type`
   * @param layers hidden states that are joined; 0 would be the token embedding
   * @param weights under transformers' names
   * @throws FlowtuneError `WEIGHTS_MISSING`, `SHAPE_MISMATCH`, `CHECKPOINT_LAYOUT` for another kind of model
   */
  static async fromConfig(
    config: Record<string, unknown>,
    layers: readonly number[],
    weights: StateDict,
  ): Promise<TextEncoder> {
    const [names, handles] = namesAndHandles(weights)
    const json = JSON.stringify(config)
    return new TextEncoder(await guardAsync(() => native().TextEncoder.fromConfig(json, [...layers], names, handles)))
  }

  /**
   * Embeddings of prompts.
   *
   * @returns `[batch, tokens, dim]`
   */
  async encode(prompts: string | readonly string[], options: TokenOptions = {}): Promise<Tensor<3>> {
    const { inputIds, attentionMask } = await this.tokenize(prompts, options)
    return this.textEmbeddings(inputIds, attentionMask)
  }

  /**
   * Token ids of prompts in the model's chat template.
   *
   * @throws FlowtuneError `INVALID_ARGUMENT` when the encoder has no tokenizer
   */
  async tokenize(prompts: string | readonly string[], { textTokens }: TokenOptions = {}): Promise<TokenizedPrompts> {
    const tokens = await guardAsync(() => this.#handle.tokenize([prompts].flat() as string[], textTokens))
    return { ...tokens, inputIds: Tensor.wrap(tokens.inputIds), attentionMask: Tensor.wrap(tokens.attentionMask) }
  }

  /**
   * Embeddings of token ids.
   *
   * @returns `[batch, tokens, dim]`: the chosen hidden states side by side
   */
  async textEmbeddings(inputIds: Tensor<2>, attentionMask: Tensor<2>): Promise<Tensor<3>> {
    return Tensor.wrap(
      await guardAsync(() => this.#handle.textEmbeddings(Tensor.unwrap(inputIds), Tensor.unwrap(attentionMask))),
    )
  }
}
