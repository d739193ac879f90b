import { guard } from './errors'
import { type NativeTensor, native } from './native'

/** Element types, as PyTorch names them. */
export type DType = 'float32' | 'bfloat16' | 'float64' | 'int64' | (string & {})

/** A tensor in the core's memory, row-major. Its data crosses into JavaScript only where a method says so. */
export class Tensor {
  readonly #handle: NativeTensor

  private constructor(handle: NativeTensor) {
    this.#handle = handle
  }

  /**
   * Copies `data` into a float32 tensor.
   *
   * @param shape extents, outermost first; their product is `data.length`
   * @throws FlowtuneError `SHAPE_MISMATCH`
   */
  static fromFloat32(data: Float32Array | readonly number[], shape: readonly number[]): Tensor {
    return guard(() => new Tensor(native().Tensor.fromFloat32(Float32Array.from(data), [...shape])))
  }

  /** Copies `data` into an int64 tensor; otherwise as {@link Tensor.fromFloat32}. */
  static fromInt64(data: BigInt64Array | readonly bigint[], shape: readonly number[]): Tensor {
    return guard(() => new Tensor(native().Tensor.fromInt64(BigInt64Array.from(data), [...shape])))
  }

  /** @internal */
  static wrap(handle: NativeTensor): Tensor {
    return new Tensor(handle)
  }

  /** @internal */
  static unwrap(tensor: Tensor): NativeTensor {
    return tensor.#handle
  }

  /** Extents, outermost first. */
  get shape(): readonly number[] {
    return guard(() => this.#handle.shape)
  }

  get dtype(): DType {
    return guard(() => this.#handle.dtype)
  }

  /** The data as a copy in float32. */
  toFloat32Array(): Float32Array {
    return guard(() => this.#handle.toFloat32Array())
  }

  /** The data of an int64 tensor as a copy. */
  toBigInt64Array(): BigInt64Array {
    return guard(() => this.#handle.toBigInt64Array())
  }

  /** Frees the memory now rather than when the garbage collector comes by. Using the tensor afterwards is an error. */
  dispose(): void {
    this.#handle.dispose()
  }
}
