import type { FlowtuneError } from './errors'
import type { EventLog } from './events'
import type { RunEvent } from './types'

interface Reader {
  resolve(result: IteratorResult<RunEvent>): void
  reject(error: FlowtuneError): void
}

/** One reader of a run's events: what it has not read yet, and its calls that wait for more. */
export class EventStream implements AsyncIterableIterator<RunEvent> {
  readonly #queue: EventLog
  readonly #detach: (stream: EventStream) => void
  readonly #readers: Reader[] = []
  #ended = false
  #error: FlowtuneError | undefined

  constructor(queue: EventLog, detach: (stream: EventStream) => void) {
    this.#queue = queue
    this.#detach = detach
  }

  push(event: RunEvent): void {
    const reader = this.#readers.shift()
    if (reader) reader.resolve({ done: false, value: event })
    else this.#queue.push(event)
  }

  /** Nothing follows; an `error` goes to the first reader that gets to the end. */
  end(error?: FlowtuneError): void {
    this.#ended = true
    this.#error = error
    for (const reader of this.#readers.splice(0)) this.#finish(reader)
  }

  next(): Promise<IteratorResult<RunEvent>> {
    const value = this.#queue.shift()
    if (value) return Promise.resolve({ done: false, value })
    return new Promise((resolve, reject) => {
      if (this.#ended) this.#finish({ resolve, reject })
      else this.#readers.push({ resolve, reject })
    })
  }

  async return(): Promise<IteratorResult<RunEvent>> {
    this.#detach(this)
    this.#queue.clear()
    this.end()
    return { done: true, value: undefined }
  }

  [Symbol.asyncIterator](): this {
    return this
  }

  #finish(reader: Reader): void {
    const error = this.#error
    this.#error = undefined
    if (error) reader.reject(error)
    else reader.resolve({ done: true, value: undefined })
  }
}
