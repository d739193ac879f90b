import { FlowtuneError } from '../errors'

/** The devices that may be asked for. */
export const DEVICES = ['auto', 'cpu', 'cuda', 'wgpu'] as const

/**
 * What computes. `auto` is CUDA where the package `flowtune-cuda` is installed and finds a card that it can use, and the
 * processor everywhere else.
 */
export type DeviceName = (typeof DEVICES)[number]

/**
 * `name`, if it is a device.
 *
 * @param source what it was given by, for the message
 * @throws FlowtuneError `INVALID_ARGUMENT`
 */
export function toDeviceName(name: string, source: string): DeviceName {
  if ((DEVICES as readonly string[]).includes(name)) return name as DeviceName
  throw new FlowtuneError('INVALID_ARGUMENT', `${source} must be one of ${DEVICES.join(', ')}, got "${name}"`)
}
