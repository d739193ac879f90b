import { guard } from '../errors'
import { type NativeParameter, native } from '../native'
import { type DType, Tensor } from './tensor'

/**
 * A named weight: of a model, or one's own.
 *
 * @example A learned embedding
 * ```ts
 * const style = new Parameter('style', Tensor.zeros([1, 1, 64]))
 * const textEmbeddings = batch.textEmbeddings.add(style.tensor)
 * ```
 */
export class Parameter {
  /** @internal */
  readonly handle: NativeParameter

  /**
   * A trainable weight that starts as `value`.
   *
   * @param name its key in `stateDict` and in files
   * @param value float32
   */
  constructor(name: string, value: Tensor)
  /** @internal */
  constructor(handle: NativeParameter)
  constructor(first: string | NativeParameter, value?: Tensor) {
    if (typeof first !== 'string') this.handle = first
    else this.handle = guard(() => new (native().Parameter)(first, Tensor.unwrap(value as Tensor)))
  }

  /** Checkpoint name, for example `transformer_blocks.0.attn.to_q.weight`. */
  get name(): string {
    return this.handle.name
  }

  /** Extents, outermost first. */
  get shape(): readonly number[] {
    return this.handle.shape
  }

  /** Type of its elements. `int8` and `nf4` have scales beside them; {@link tensor} is then for looking at shapes. */
  get dtype(): DType | 'int8' | 'nf4' {
    return this.handle.dtype as DType | 'int8' | 'nf4'
  }

  /** Whether it receives gradients. */
  get trainable(): boolean {
    return this.handle.trainable
  }

  /** Freezes or unfreezes it. */
  set trainable(trainable: boolean) {
    this.handle.trainable = trainable
  }

  /** Its present value. While it is trainable, gradients flow from what is computed with it. */
  get tensor(): Tensor {
    return guard(() => Tensor.wrap(this.handle.tensor()))
  }

  /**
   * Replaces its value.
   *
   * @throws FlowtuneError `SHAPE_MISMATCH` when shape or element type differ
   */
  assign(value: Tensor): void {
    guard(() => this.handle.assign(Tensor.unwrap(value)))
  }
}
