import { FlowtuneError, guardAsync } from './errors'
import { type NativeCancelToken, native } from './native'
import type { ProgressEvent, RunEvent, WarningEvent } from './types'

/** Watching and stopping work that takes a while. */
export interface WatchOptions {
  /** Asks the work to stop; it rejects with `CANCELLED`. */
  signal?: AbortSignal
  /** Called as the work goes on. */
  onProgress?: (event: ProgressEvent) => void
  /** Called with what the user should know. Default: written to the console. */
  onWarning?: (event: WarningEvent) => void
}

/** @internal Starts work with a token that its signal sets, and hands its events on. */
export async function watched<T>(
  { signal, onProgress, onWarning = ({ code, message }) => console.warn(`${code}: ${message}`) }: WatchOptions,
  start: (cancel: NativeCancelToken, onEvent: (json: string) => void) => Promise<T>,
): Promise<T> {
  if (signal?.aborted) throw new FlowtuneError('CANCELLED', 'cancelled before it began')
  const token = new (native().CancelToken)()
  const cancel = () => token.cancel()
  const onEvent = (json: string) => {
    const event = JSON.parse(json) as RunEvent
    if (event.type === 'progress') onProgress?.(event)
    else if (event.type === 'warning') onWarning(event)
  }
  signal?.addEventListener('abort', cancel, { once: true })
  try {
    return await guardAsync(() => start(token, onEvent))
  } finally {
    signal?.removeEventListener('abort', cancel)
  }
}
