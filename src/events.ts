import type { RunEvent } from './types'

/**
 * Events in order, with a bound: once `maxSteps` of them are of type `step`, the older half of those is let go.
 * All other events stay, since there are few and each matters.
 */
export class EventLog {
  #events: RunEvent[] = []
  #steps = 0

  constructor(readonly maxSteps = 20_000) {}

  push(event: RunEvent): void {
    this.#events.push(event)
    if (event.type === 'step') this.#steps += 1
    if (this.#steps > this.maxSteps) this.#dropOlderSteps()
  }

  shift(): RunEvent | undefined {
    const event = this.#events.shift()
    if (event?.type === 'step') this.#steps -= 1
    return event
  }

  clear(): void {
    this.#events = []
    this.#steps = 0
  }

  /** A log of its own with the same events. */
  copy(): EventLog {
    const copy = new EventLog(this.maxSteps)
    copy.#events = [...this.#events]
    copy.#steps = this.#steps
    return copy
  }

  #dropOlderSteps(): void {
    let surplus = this.#steps - Math.floor(this.maxSteps / 2)
    this.#events = this.#events.filter((event) => event.type !== 'step' || surplus-- <= 0)
    this.#steps = Math.floor(this.maxSteps / 2)
  }
}
