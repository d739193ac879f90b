import { EXIT } from './exit'
import type { Output } from './output'

/**
 * Runs `work` with a signal that the first Ctrl+C (or SIGTERM) aborts, so that it finishes its step and saves; the
 * second ends the process at once.
 */
export async function interruptible<T>(output: Output, work: (signal: AbortSignal) => Promise<T>): Promise<T> {
  const controller = new AbortController()
  const interrupt = () => {
    if (controller.signal.aborted) process.exit(EXIT.interrupted)
    output.note('stopping after this step; once more to stop at once')
    controller.abort()
  }
  process.on('SIGINT', interrupt).on('SIGTERM', interrupt)
  try {
    return await work(controller.signal)
  } finally {
    process.off('SIGINT', interrupt).off('SIGTERM', interrupt)
  }
}
