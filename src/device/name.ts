import { FlowtuneError } from '../errors'

/**
 * What computes. `auto` is CUDA where the package `flowtune-cuda` is installed and finds a card that it can use, and the
 * processor everywhere else.
 */
export type DeviceName = 'auto' | 'cpu' | 'cuda' | 'wgpu'

/** All of them. */
export const DEVICES: readonly DeviceName[] = ['auto', 'cpu', 'cuda', 'wgpu']

/**
 * `name`, if it is a device.
 *
 * @param source what it was given by, for the message
 * @throws FlowtuneError `INVALID_ARGUMENT`
 */
export function toDeviceName(name: string, source: string): DeviceName {
  if (DEVICES.some((device) => device === name)) return name as DeviceName
  throw new FlowtuneError('INVALID_ARGUMENT', `${source} must be one of ${DEVICES.join(', ')}, got "${name}"`)
}
