import { guard } from '../errors'
import { native } from '../native'

/** Kinds of {@link timeShift}: `linear` e^μ with μ = 0.5 + 0.65·tokens/4096, `sqrt` max(1, 3·√(tokens/128²)), `constant` 3. */
export type TimeShiftType = 'linear' | 'sqrt' | 'constant'

/**
 * Shifts times towards 1: s / (s + 1/t − 1). After NeMo Automodel's `time_shift(t, image_seq_len, shift_type)`.
 *
 * @param t 0..1
 * @param imageSeqLen image tokens
 */
export function timeShift(t: number, imageSeqLen: number, type?: TimeShiftType): number
export function timeShift(t: Float32Array, imageSeqLen: number, type?: TimeShiftType): Float32Array
export function timeShift(
  t: number | Float32Array,
  imageSeqLen: number,
  type: TimeShiftType = 'constant',
): number | Float32Array {
  const times = typeof t === 'number' ? Float32Array.of(t) : t
  const shifted = guard(() => native().timeShift(times, imageSeqLen, type))
  return typeof t === 'number' ? (shifted[0] as number) : shifted
}

/** The table that the weighting `bsmntw` looks ⌊1000·σ⌋ up in, `[1000]`: a bell around the middle, of mean 1. */
export function bsmntwTable(): Float32Array {
  return guard(() => native().bsmntwTable())
}
