import { createRequire } from 'node:module'
import { FlowtuneError } from '../errors'
import type { NativeBinding } from '../native'
import { mainCause } from './causes'
import { CUDA_PACKAGE } from './cuda-package'
import { probeCuda } from './probe'
import { deviceAskedFor, noteDeviceInUse } from './use'

/** Why there is no wgpu. */
export const WGPU_REASON = 'it is not built yet; use cpu or cuda'

/**
 * The core for the device that was asked for.
 *
 * @throws FlowtuneError `DEVICE_UNAVAILABLE`, `NATIVE_UNAVAILABLE`, `INVALID_ARGUMENT`
 */
export function loadBinding(): NativeBinding {
  switch (deviceAskedFor()) {
    case 'cuda':
      return loadCuda()
    case 'wgpu':
      throw new FlowtuneError('DEVICE_UNAVAILABLE', `The device wgpu cannot be used: ${WGPU_REASON}.`)
    case 'cpu':
      return loadCpu()
    default:
      return loadBest()
  }
}

/** Why CUDA was not taken is what `flowtune doctor` is for. */
function loadBest(): NativeBinding {
  try {
    return loadCuda()
  } catch {
    return loadCpu()
  }
}

function loadCpu(): NativeBinding {
  const binding = cpuBinding()
  noteDeviceInUse('cpu')
  return binding
}

/**
 * The core for the processor, for looking at; to compute with it is to load it by {@link loadBinding}.
 *
 * @throws FlowtuneError `NATIVE_UNAVAILABLE`
 */
export function cpuBinding(): NativeBinding {
  try {
    return createRequire(import.meta.url)('#native') as NativeBinding
  } catch (cause) {
    throw new FlowtuneError('NATIVE_UNAVAILABLE', explainMissingCore(cause), { cause })
  }
}

function loadCuda(): NativeBinding {
  const probe = probeCuda()
  if ('reason' in probe) throw unavailable(probe.reason)
  try {
    const binding = createRequire(import.meta.url)(CUDA_PACKAGE) as NativeBinding
    noteDeviceInUse('cuda')
    return binding
  } catch (cause) {
    throw unavailable(`${CUDA_PACKAGE} cannot be loaded (${mainCause(cause)})`, cause)
  }
}

function unavailable(reason: string, cause?: unknown): FlowtuneError {
  return new FlowtuneError('DEVICE_UNAVAILABLE', `CUDA cannot be used: ${reason}.`, { cause })
}

/** Why there is no core for this platform, and what to do. */
function explainMissingCore(cause: unknown): string {
  return [
    `flowtune's Rust core for ${process.platform}-${process.arch} could not be loaded (${mainCause(cause)}).`,
    'From the npm package: install again without --omit=optional and without --no-optional.',
    'From a checkout: run `npm run build`.',
  ].join(' ')
}
