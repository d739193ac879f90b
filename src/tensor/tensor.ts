import { guard, guardAsync } from '../errors'
import { type NativeTensor, native } from '../native'
import { Gradients } from './gradients'

/** Element types, as PyTorch names them. */
export type DType = 'float32' | 'bfloat16' | 'float16' | 'float64' | 'int64'

/** Extents, outermost first. */
export type Shape = readonly number[]

/** The rank of a shape that was written out; of one that was not, any. */
// biome-ignore lint/suspicious/noExplicitAny: a tensor of unknown rank fits where one of a known rank is asked for, and is checked when it runs
export type RankOf<S extends Shape> = number extends S['length'] ? any : S['length']

/** The rank of a result whose operands have these ranks and broadcast. */
// biome-ignore lint/suspicious/noExplicitAny: as for RankOf
export type BroadcastRank<A extends number, B extends number> = [A] extends [B] ? ([B] extends [A] ? A : any) : any

/** Over what to reduce. */
export interface ReduceOptions {
  /** Dimensions to reduce; all of them when left out. */
  dims?: readonly number[]
  /** Keep reduced dimensions with extent 1. Default false. */
  keepDims?: boolean
}

/** Options of {@link Tensor.backward}. */
export interface BackwardOptions {
  /** Where the gradients are added: pass the same set for every batch of a step to accumulate. Default: a new set. */
  gradients?: Gradients
  /** Gradient that the tensor itself is given, for example 1 / accumulated batches. Default 1. */
  scale?: number
}

/**
 * A tensor in the core's memory, row-major. Its data crosses into JavaScript only where a method says so.
 *
 * Arithmetic is recorded where a gradient may flow: on results that depend on a trainable {@link Parameter} or came
 * from {@link Flux2Transformer.forward}. {@link Tensor.backward} runs the recording backwards and uses it up.
 * Arithmetic runs on the calling thread, about a millisecond for a million elements; models, backward passes,
 * optimizers and files have threads of their own.
 *
 * The type parameter is the rank, where the compiler can know it: a `Tensor<3>` is refused where `Tensor<4>` is asked for.
 *
 * @example
 * ```ts
 * using latents = Tensor.randn([1, 128, 4, 4], { seed: 1 })
 * const energy = latents.square().mean().item()
 * ```
 */
// biome-ignore lint/suspicious/noExplicitAny: as for RankOf
export class Tensor<Rank extends number = any> implements Disposable {
  readonly #handle: NativeTensor
  /** Only for the compiler. */
  declare protected readonly _rank: Rank

  private constructor(handle: NativeTensor) {
    this.#handle = handle
    handle.account()
  }

  /**
   * Copies `data` into a float32 tensor.
   *
   * @param data elements, row-major
   * @param shape extents, outermost first; their product is `data.length`
   * @throws FlowtuneError `SHAPE_MISMATCH`
   */
  static fromFloat32<const S extends Shape>(data: Float32Array | readonly number[], shape: S): Tensor<RankOf<S>> {
    const elements = data instanceof Float32Array ? data : Float32Array.from(data)
    return guard(() => new Tensor(native().Tensor.fromFloat32(elements, [...shape])))
  }

  /** Copies `data` into a float64 tensor; otherwise as {@link Tensor.fromFloat32}. */
  static fromFloat64<const S extends Shape>(data: Float64Array | readonly number[], shape: S): Tensor<RankOf<S>> {
    const elements = data instanceof Float64Array ? data : Float64Array.from(data)
    return guard(() => new Tensor(native().Tensor.fromFloat64(elements, [...shape])))
  }

  /** Copies `data` into an int64 tensor; otherwise as {@link Tensor.fromFloat32}. */
  static fromInt64<const S extends Shape>(data: BigInt64Array | readonly bigint[], shape: S): Tensor<RankOf<S>> {
    const elements = data instanceof BigInt64Array ? data : BigInt64Array.from(data)
    return guard(() => new Tensor(native().Tensor.fromInt64(elements, [...shape])))
  }

  /** A float32 tensor of one value. */
  static full<const S extends Shape>(value: number, shape: S): Tensor<RankOf<S>> {
    return guard(() => new Tensor(native().Tensor.full(value, [...shape])))
  }

  /** A float32 tensor of zeros. */
  static zeros<const S extends Shape>(shape: S): Tensor<RankOf<S>> {
    return Tensor.full(0, shape)
  }

  /**
   * Standard normal noise, float32. Entry i of the first dimension is a function of the seed, the step and i: it is the
   * same in a batch of any size, and the noise that {@link FlowMatchingPipeline.step} draws for that seed and step.
   */
  static randn<const S extends Shape>(shape: S, options: { seed?: number; step?: number } = {}): Tensor<RankOf<S>> {
    return guard(() => new Tensor(native().Tensor.randn([...shape], options.seed ?? 0, options.step ?? 0)))
  }

  /**
   * Tensors of one rank, one after the other along `dim`.
   *
   * @throws FlowtuneError `SHAPE_MISMATCH` when other extents differ, or there is no tensor
   */
  static cat<R extends number>(tensors: ReadonlyArray<Tensor<R>>, dim = 0): Tensor<R> {
    return guard(() => new Tensor(native().Tensor.cat(tensors.map(Tensor.unwrap), dim)))
  }

  /** @internal */
  // biome-ignore lint/suspicious/noExplicitAny: as for RankOf
  static wrap<R extends number = any>(handle: NativeTensor): Tensor<R> {
    return new Tensor<R>(handle)
  }

  /** @internal */
  static unwrap(tensor: Tensor): NativeTensor {
    return tensor.#handle
  }

  /** Extents, outermost first. */
  get shape(): readonly number[] {
    return guard(() => this.#handle.shape)
  }

  /** Element type. */
  get dtype(): DType {
    return guard(() => this.#handle.dtype as DType)
  }

  /** Number of elements. */
  get length(): number {
    return this.shape.reduce((product, extent) => product * extent, 1)
  }

  /** Whether a gradient flows back through it. */
  get requiresGrad(): boolean {
    return guard(() => this.#handle.isTracked)
  }

  /** The data as a copy in float32. */
  toFloat32Array(): Float32Array {
    return guard(() => this.#handle.toFloat32Array())
  }

  /** The data as a copy in float64. */
  toFloat64Array(): Float64Array {
    return guard(() => this.#handle.toFloat64Array())
  }

  /** The data of an int64 tensor as a copy. */
  toBigInt64Array(): BigInt64Array {
    return guard(() => this.#handle.toBigInt64Array())
  }

  /**
   * The value of a tensor of one element.
   *
   * @throws FlowtuneError `SHAPE_MISMATCH` when it has more or none
   */
  item(): number {
    return guard(() => this.#handle.item())
  }

  /** The same values in another floating type, without a gradient. */
  to(dtype: DType): Tensor<Rank> {
    return guard(() => new Tensor<Rank>(this.#handle.to(dtype)))
  }

  /** The same values without a gradient. Shares memory. */
  detach(): Tensor<Rank> {
    return guard(() => new Tensor<Rank>(this.#handle.detach()))
  }

  /** Another handle to the same tensor, which outlives a {@link dispose} of this one. Shares memory. */
  clone(): Tensor<Rank> {
    return guard(() => new Tensor<Rank>(this.#handle.share()))
  }

  /** this + other; shapes broadcast as in NumPy. */
  add(other: number): Tensor<Rank>
  add<R extends number>(other: Tensor<R>): Tensor<BroadcastRank<Rank, R>>
  add(other: Tensor | number): Tensor {
    return typeof other === 'number' ? this.#unary('add', other) : this.#binary('add', other)
  }

  /** this − other; shapes broadcast as in NumPy. */
  sub(other: number): Tensor<Rank>
  sub<R extends number>(other: Tensor<R>): Tensor<BroadcastRank<Rank, R>>
  sub(other: Tensor | number): Tensor {
    return typeof other === 'number' ? this.#unary('add', -other) : this.#binary('sub', other)
  }

  /** this · other, element by element; shapes broadcast as in NumPy. */
  mul(other: number): Tensor<Rank>
  mul<R extends number>(other: Tensor<R>): Tensor<BroadcastRank<Rank, R>>
  mul(other: Tensor | number): Tensor {
    return typeof other === 'number' ? this.#unary('mul', other) : this.#binary('mul', other)
  }

  /** this / other, element by element; shapes broadcast as in NumPy. */
  div(other: number): Tensor<Rank>
  div<R extends number>(other: Tensor<R>): Tensor<BroadcastRank<Rank, R>>
  div(other: Tensor | number): Tensor {
    return typeof other === 'number' ? this.#unary('div', other) : this.#binary('div', other)
  }

  /** −x. */
  neg(): Tensor<Rank> {
    return this.#unary('neg')
  }

  /** x². */
  square(): Tensor<Rank> {
    return this.#unary('square')
  }

  /** |x|. Its gradient at 0 is 0. */
  abs(): Tensor<Rank> {
    return this.#unary('abs')
  }

  /** √x. */
  sqrt(): Tensor<Rank> {
    return this.#unary('sqrt')
  }

  /** eˣ. */
  exp(): Tensor<Rank> {
    return this.#unary('exp')
  }

  /** Natural logarithm. */
  log(): Tensor<Rank> {
    return this.#unary('log')
  }

  /** Hyperbolic tangent. */
  tanh(): Tensor<Rank> {
    return this.#unary('tanh')
  }

  /** 1 / (1 + e⁻ˣ). */
  sigmoid(): Tensor<Rank> {
    return this.#unary('sigmoid')
  }

  /** x · sigmoid(x). */
  silu(): Tensor<Rank> {
    return this.#unary('silu')
  }

  /** xᵖ. */
  pow(exponent: number): Tensor<Rank> {
    return this.#unary('pow', exponent)
  }

  /** x, but at least `min` and at most `max`. */
  clamp(min: number, max: number): Tensor<Rank> {
    return this.#unary('clamp', min, max)
  }

  /** Sum over dimensions; without `dims` a scalar. */
  sum(): Tensor<0>
  sum(options: ReduceOptions): Tensor
  sum(options: ReduceOptions = {}): Tensor {
    return this.#reduce('sum', options)
  }

  /** Mean over dimensions; without `dims` a scalar. */
  mean(): Tensor<0>
  mean(options: ReduceOptions): Tensor
  mean(options: ReduceOptions = {}): Tensor {
    return this.#reduce('mean', options)
  }

  /** Matrix product `[.., m, k]` × `[.., k, n]` → `[.., m, n]`; the right side may also be one matrix `[k, n]`. */
  matmul(other: Tensor): Tensor<Rank> {
    return this.#binary('matmul', other)
  }

  /**
   * The same elements in another shape.
   *
   * @throws FlowtuneError `SHAPE_MISMATCH` when the number of elements differs
   */
  reshape<const S extends Shape>(shape: S): Tensor<RankOf<S>> {
    return guard(() => new Tensor(this.#handle.reshape([...shape])))
  }

  /** Dimensions in another order: entry i of `dims` is the dimension that comes i-th. */
  permute(dims: readonly number[]): Tensor<Rank> {
    return guard(() => new Tensor<Rank>(this.#handle.permute([...dims])))
  }

  /** `length` entries of dimension `dim`, from `start` on. */
  narrow(dim: number, start: number, length: number): Tensor<Rank> {
    return guard(() => new Tensor<Rank>(this.#handle.narrow(dim, start, length)))
  }

  /** Repeated along dimensions of extent 1, and along new ones in front. */
  broadcastTo<const S extends Shape>(shape: S): Tensor<RankOf<S>> {
    return guard(() => new Tensor(this.#handle.broadcastTo([...shape])))
  }

  /**
   * Runs backwards from here, usually from a loss. What led here is used up: the graph is freed as the pass goes.
   *
   * @returns gradients of all trainable parameters that led here
   * @throws FlowtuneError `INVALID_ARGUMENT` when nothing trainable led here, or a backward has used it up already
   */
  async backward({ gradients = new Gradients(), scale = 1 }: BackwardOptions = {}): Promise<Gradients> {
    await guardAsync(() => this.#handle.backward(Gradients.unwrap(gradients), scale))
    return gradients
  }

  /**
   * Frees the memory now rather than when the garbage collector comes by, with the graph that led here if nothing else
   * holds it. Using the tensor afterwards is an error.
   */
  dispose(): void {
    this.#handle.dispose()
  }

  /** {@link dispose}, for `using`. */
  [Symbol.dispose](): void {
    this.dispose()
  }

  #unary(op: string, a = 0, b = 0): Tensor<Rank> {
    return guard(() => new Tensor<Rank>(this.#handle.unary(op, a, b)))
  }

  #binary(op: string, other: Tensor): Tensor<Rank> {
    return guard(() => new Tensor<Rank>(this.#handle.binary(op, Tensor.unwrap(other))))
  }

  #reduce(op: string, { dims, keepDims = false }: ReduceOptions): Tensor {
    return guard(() => new Tensor(this.#handle.reduce(op, dims && [...dims], keepDims)))
  }
}
