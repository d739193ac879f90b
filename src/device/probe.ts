import { spawnSync } from 'node:child_process'
import type { DeviceInfo } from '../types'
import { explainFailure } from './cuda-failure'
import { CUDA_PACKAGE, type CudaPackage, cudaPackage, cudaPackageProblem } from './cuda-package'

/** What became of trying CUDA: the device, or in plain words why there is none. */
export type CudaProbe = { device: DeviceInfo } | { reason: string }

/** A driver may take seconds to wake a card; one that takes longer is stuck. */
const TIMEOUT_MS = 30_000

/** Loads the addon, asks it for its device, and says what came of it in its last line. */
const SCRIPT = `
const causes = (error, depth = 0) =>
  error && depth < 20 ? [String(error.message ?? error), ...[error.cause, error.errors].flat().flatMap((e) => causes(e, depth + 1))] : []
const answer = (value) => process.stdout.write('\\n' + JSON.stringify(value) + '\\n')
try {
  answer({ device: JSON.parse(require(process.argv[1]).device()) })
} catch (error) {
  answer({ failure: { code: error.code, messages: causes(error) } })
}`

let known: CudaProbe | undefined

/**
 * Whether CUDA can be used: tried once in a process of its own, since a driver that crashes takes its process along, and
 * then remembered.
 */
export function probeCuda(): CudaProbe {
  known ??= probeInstalled(cudaPackage())
  return known
}

function probeInstalled(found: CudaPackage | undefined): CudaProbe {
  const reason = cudaPackageProblem(found)
  return reason || !found ? { reason: reason ?? '' } : probePackage(found)
}

/** Tries what is installed. */
export function probePackage(found: CudaPackage, timeout = TIMEOUT_MS): CudaProbe {
  const { NODE_OPTIONS: _, ...env } = process.env
  const { stdout, stderr, signal, status, error } = spawnSync(process.execPath, ['-e', SCRIPT, found.entry], {
    encoding: 'utf8',
    // For a host that is Electron: its program is Node only when it is told to be.
    env: { ...env, ELECTRON_RUN_AS_NODE: '1' },
    stdio: ['ignore', 'pipe', 'pipe'],
    timeout,
    killSignal: 'SIGKILL',
    windowsHide: true,
  })
  if ((error as NodeJS.ErrnoException | undefined)?.code === 'ETIMEDOUT') {
    return { reason: `${CUDA_PACKAGE} did not answer within ${timeout / 1000} s when it was tried` }
  }
  const answer = parse(stdout)
  if (!answer) {
    const ending = error?.message ?? signal ?? `exit status ${status}`
    const last = stderr?.trim().split('\n').at(-1)
    return { reason: `${CUDA_PACKAGE} crashed when it was tried (${[ending, last].filter(Boolean).join(': ')})` }
  }
  if ('failure' in answer) return { reason: explainFailure(found, answer.failure) }
  if (answer.device.kind === 'cuda') return answer
  return { reason: `${CUDA_PACKAGE} computes on ${answer.device.kind}: it is not a build for CUDA` }
}

interface Failure {
  code?: string
  messages: string[]
}

/** The child's last line; none when it did not live to write it. */
function parse(stdout: string | null): { device: DeviceInfo } | { failure: Failure } | undefined {
  try {
    return JSON.parse(stdout?.trim().split('\n').at(-1) ?? '')
  } catch {
    return undefined
  }
}
