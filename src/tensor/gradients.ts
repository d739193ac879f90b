import { guard, guardAsync } from '../errors'
import { type NativeGradients, native } from '../native'
import type { Parameter } from './parameter'
import { Tensor } from './tensor'

/** Gradients of trainable parameters, as {@link Tensor.backward} gives them. */
export class Gradients {
  readonly #handle: NativeGradients = guard(() => new (native().Gradients)())

  /** @internal */
  static unwrap(gradients: Gradients): NativeGradients {
    return gradients.#handle
  }

  /** How many parameters have a gradient. */
  get size(): number {
    return this.#handle.size
  }

  /** The gradient of a parameter, of its shape; undefined when it has none. */
  get(parameter: Parameter): Tensor | undefined {
    const gradient = this.#handle.get(parameter.handle)
    return gradient ? Tensor.wrap(gradient) : undefined
  }

  /** Forgets all gradients, and frees them. */
  clear(): void {
    this.#handle.clear()
  }
}

/**
 * Scales the gradients together so that their global norm is at most `maxNorm`, in place. After PyTorch's
 * `clip_grad_norm_`.
 *
 * @param gradients of all trained parameters
 * @param maxNorm 0 only measures
 * @returns the norm before
 */
export async function clipGradNorm(gradients: Gradients, maxNorm: number): Promise<number> {
  return guardAsync(() => Gradients.unwrap(gradients).clipNorm(maxNorm))
}
