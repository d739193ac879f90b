import { FlowtuneError } from '../errors'
import { type DeviceName, toDeviceName } from './name'

let asked: DeviceName | undefined
let inUse: 'cpu' | 'cuda' | undefined

/**
 * Chooses what computes, for this process (in a worker: for this worker). Without it, `FLOWTUNE_DEVICE` chooses, and
 * without that it is `auto`.
 *
 * To be called before anything else of flowtune: tensors of one device mean nothing to another. Whether the device is
 * there shows at the first call that needs it, as `DEVICE_UNAVAILABLE`.
 *
 * @throws FlowtuneError `INVALID_ARGUMENT` for another name, or when another device is in use already
 */
export function useDevice(name: DeviceName): void {
  const device = toDeviceName(name, 'the device')
  if (inUse && device !== 'auto' && device !== inUse) {
    const message = `flowtune computes on ${inUse} already; call useDevice("${device}") before anything else of flowtune`
    throw new FlowtuneError('INVALID_ARGUMENT', message)
  }
  asked = device
}

/** The device that was asked for: by {@link useDevice}, else by `FLOWTUNE_DEVICE`. */
export function deviceAskedFor(): DeviceName {
  return asked ?? toDeviceName(process.env.FLOWTUNE_DEVICE || 'auto', 'FLOWTUNE_DEVICE')
}

/** Notes that the core of `device` is loaded, and stays. */
export function noteDeviceInUse(device: 'cpu' | 'cuda'): void {
  inUse = device
}
