import { guard } from '../errors'
import { native } from '../native'

/**
 * Noise levels of FLUX.2's sampler: `steps + 1` values from near 1 down to 0, for samplers of one's own.
 *
 * @param tokens image tokens, h·w of the latents
 * @param steps Euler steps
 */
export function eulerSigmas(tokens: number, steps: number): Float32Array {
  return guard(() => native().eulerSigmas(tokens, steps))
}
