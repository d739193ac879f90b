import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { expect } from 'vitest'
import { loadSafetensors, type StateDict, Tensor } from '../../src/index'
import { cases } from './paths'

/** Bounds of the parity cases on max|a − b| / max|b|; of ids exactly, of images in 0..1 absolutely. */
export const BOUND = { forward: 1e-4, gradient: 1e-3, exact: 0, image: 2 / 255 }

/** What the reference stack computed, with what it was given. */
export class Case {
  readonly #unused: Set<string>

  private constructor(
    // biome-ignore lint/suspicious/noExplicitAny: what a case describes depends on its kind
    readonly info: any,
    readonly tensors: StateDict,
  ) {
    this.#unused = new Set(Object.keys(tensors))
  }

  static async open(name: string): Promise<Case> {
    const folder = join(cases, name)
    const { tensors } = await loadSafetensors(join(folder, 'tensors.safetensors'))
    return new Case(JSON.parse(readFileSync(join(folder, 'case.json'), 'utf8')), tensors)
  }

  input(name: string): Tensor {
    return this.#take(`in.${name}`)
  }

  /** Names of the tensors that begin with `prefix`, without it. */
  names(prefix: string): string[] {
    return Object.keys(this.tensors)
      .filter((name) => name.startsWith(prefix))
      .map((name) => name.slice(prefix.length))
  }

  /** The weights under `weights.<scope>`. */
  weights(scope = ''): StateDict {
    const prefix = `weights.${scope}`
    return Object.fromEntries(this.names(prefix).map((name) => [name, this.#take(`${prefix}${name}`)]))
  }

  /** Compares with `expect.<name>`. */
  expect(name: string, got: Tensor, bound: number): void {
    expectClose(name, got, this.#take(`expect.${name}`), bound)
  }

  /** Everything that the case holds must have been used. */
  finish(): void {
    expect([...this.#unused]).toEqual([])
  }

  #take(name: string): Tensor {
    const tensor = this.tensors[name]
    if (!tensor) throw new Error(`the case has no tensor ${name}`)
    this.#unused.delete(name)
    return tensor
  }
}

export function expectClose(name: string, got: Tensor, want: Tensor, bound: number): void {
  expect(got.shape, name).toEqual(want.shape)
  if (want.dtype === 'int64') {
    expect(got.toBigInt64Array(), name).toEqual(want.toBigInt64Array())
    return
  }
  const error = relativeError(got.toFloat32Array(), want.toFloat32Array(), bound === BOUND.image)
  expect(error, `${name}: error`).toBeLessThanOrEqual(bound)
}

/** max|a − b| / max|b|, or max|a − b|; infinite when a value is no number. */
export function relativeError(a: Float32Array, b: Float32Array, absolute = false): number {
  let [difference, scale] = [0, 0]
  a.forEach((value, i) => {
    const expected = b[i] ?? Number.NaN
    const error = Math.abs(value - expected)
    difference = Math.max(difference, Number.isNaN(error) ? Number.POSITIVE_INFINITY : error)
    scale = Math.max(scale, Math.abs(expected))
  })
  return absolute || scale === 0 ? difference : difference / scale
}

/** A float32 scalar. */
export function scalar(value: number): Tensor<0> {
  return Tensor.full(value, [])
}
