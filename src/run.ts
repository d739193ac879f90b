import type { FlowtuneError } from './errors'
import { EventStream } from './event-stream'
import { EventLog } from './events'
import { Job, type JobStatus, type Outcome, type RunOptions } from './job'
import type { RunEvent, TrainSummary } from './types'

/**
 * A training run on its own thread.
 *
 * Iterating gives its events, from its beginning (of very long runs the oldest steps are let go), and ends with the run.
 * Several iterators may be open at once, each with all events. An iterator throws the error a run failed with;
 * after a cancellation it just ends, and {@link wait} rejects with `CANCELLED`.
 *
 * A failure that nobody waits or iterates for becomes an unhandled rejection, as for any promise.
 */
export class TrainingRun implements AsyncIterable<RunEvent> {
  readonly #job: Job<TrainSummary>
  readonly #log = new EventLog()
  readonly #streams = new Set<EventStream>()
  readonly #outcome: Promise<Outcome<TrainSummary>>
  #ended: Outcome<TrainSummary> | undefined
  #observed = false

  /** @internal use `train` */
  constructor(options: object, { signal, onEvent }: RunOptions) {
    this.#job = new Job('train', options, {
      signal,
      onEvent: (event) => {
        this.#publish(event)
        onEvent?.(event)
      },
    })
    this.#outcome = this.#job.outcome.then((outcome) => this.#end(outcome))
  }

  /** How far the run is. */
  status(): JobStatus {
    return this.#job.status()
  }

  /** Asks the run to stop: it finishes the step, saves a checkpoint and ends with `CANCELLED`. */
  cancel(): void {
    this.#job.cancel()
  }

  /**
   * @returns what the run left
   * @throws FlowtuneError with the code of what went wrong; `CANCELLED` after a cancellation
   */
  async wait(): Promise<TrainSummary> {
    this.#observed = true
    const outcome = await this.#outcome
    if (!outcome.ok) throw outcome.error
    return outcome.value
  }

  /** Its events from the beginning, to the end of the run. */
  [Symbol.asyncIterator](): AsyncIterableIterator<RunEvent> {
    this.#observed = true
    const stream = new EventStream(this.#log.copy(), (closed) => this.#streams.delete(closed))
    if (this.#ended) stream.end(failureOf(this.#ended))
    else this.#streams.add(stream)
    return stream
  }

  #publish(event: RunEvent): void {
    this.#log.push(event)
    for (const stream of this.#streams) stream.push(event)
  }

  #end(outcome: Outcome<TrainSummary>): Outcome<TrainSummary> {
    this.#ended = outcome
    const failure = failureOf(outcome)
    for (const stream of this.#streams) stream.end(failure)
    this.#streams.clear()
    if (failure && !this.#observed) void Promise.reject(failure)
    return outcome
  }
}

/** A cancellation was asked for: it ends an iteration without an error. */
function failureOf(outcome: Outcome<TrainSummary>): FlowtuneError | undefined {
  return outcome.ok || outcome.error.code === 'CANCELLED' ? undefined : outcome.error
}
