import { FlowtuneError, guard } from './errors'
import { type JobKind, type NativeJob, native } from './native'
import type { RunEvent } from './types'

/** How far a job is. `cancelling`: it was asked to stop and has not ended yet. */
export type JobStatus = 'running' | 'cancelling' | 'finished' | 'failed' | 'cancelled'

/** How a job ended. */
export type Outcome<T> = { ok: true; value: T } | { ok: false; error: FlowtuneError }

/** Options of every long-running function. */
export interface RunOptions {
  /** Asks the work to stop: it finishes what it is at, saves, and ends with `CANCELLED`. */
  signal?: AbortSignal
  /** Called for each event. */
  onEvent?: (event: RunEvent) => void
}

/** A native job with its AbortSignal and its typed outcome. The pending outcome keeps the process alive. */
export class Job<T> {
  readonly outcome: Promise<Outcome<T>>
  readonly #native: NativeJob

  constructor(kind: JobKind, options: object, { signal, onEvent }: RunOptions) {
    if (signal?.aborted) throw new FlowtuneError('CANCELLED', `${kind} was cancelled before it began`)
    this.#native = guard(() =>
      native().startJob(kind, JSON.stringify(options), (json) => onEvent?.(JSON.parse(json) as RunEvent)),
    )
    this.outcome = this.#settle(signal)
  }

  status(): JobStatus {
    return this.#native.status() as JobStatus
  }

  cancel(): void {
    this.#native.cancel()
  }

  async #settle(signal: AbortSignal | undefined): Promise<Outcome<T>> {
    const cancel = () => this.#native.cancel()
    signal?.addEventListener('abort', cancel, { once: true })
    try {
      return toOutcome<T>(await this.#native.wait())
    } catch (thrown) {
      return { ok: false, error: FlowtuneError.from(thrown) }
    } finally {
      signal?.removeEventListener('abort', cancel)
    }
  }
}

function toOutcome<T>(json: string): Outcome<T> {
  const result = JSON.parse(json) as { ok: true; value: T } | { ok: false; error: { code: string; message: string } }
  return result.ok ? result : { ok: false, error: new FlowtuneError(result.error.code, result.error.message) }
}

/** Runs a job to its end. */
export async function runJob<T>(kind: JobKind, options: object, run: RunOptions): Promise<T> {
  const outcome = await new Job<T>(kind, options, run).outcome
  if (!outcome.ok) throw outcome.error
  return outcome.value
}
