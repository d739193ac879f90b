import { type Options, Presets, SingleBar, type ValueType } from 'cli-progress'
import type { RunEvent, StepEvent } from '../types'
import type { Output } from './output'

/** Shows a run's events as they come. */
export interface Progress {
  show(event: RunEvent): void
  stop(): void
}

/** JSON lines, a bar on a terminal, or plain lines. */
export function createProgress(output: Output, events: 'all' | 'none' = 'none'): Progress {
  if (output.json) return { show: (event) => events === 'all' && output.document(event), stop: () => {} }
  return process.stderr.isTTY ? new BarProgress(output) : new LineProgress(output)
}

class BarProgress implements Progress {
  readonly #output: Output
  readonly #pace = new Pace()
  #bar: SingleBar | undefined
  #stage = ''

  constructor(output: Output) {
    this.#output = output
  }

  show(event: RunEvent): void {
    if (event.type === 'step') {
      this.#update('training', event.step, event.totalSteps, describeStep(event, this.#pace.add(event)))
    } else if (event.type === 'progress') this.#update(event.stage, event.done, event.total, '', event.unit)
    else this.#remark(event)
  }

  stop(): void {
    this.#bar?.stop()
    this.#bar = undefined
    this.#stage = ''
  }

  #update(stage: string, done: number, total: number, detail: string, unit?: 'bytes'): void {
    if (stage !== this.#stage) this.#begin(stage, total, unit)
    this.#bar?.setTotal(total)
    this.#bar?.update(done, { detail })
    if (done >= total) this.stop()
  }

  #begin(stage: string, total: number, unit?: 'bytes'): void {
    this.stop()
    this.#stage = stage
    const format = `${stage.padEnd(12)} {bar} {value}/{total} {detail}`
    const formatValue = (value: number, _: Options, type: ValueType) =>
      type === 'value' || type === 'total' ? amount(value, unit) : String(value)
    this.#bar = new SingleBar({ format, formatValue, hideCursor: true, stream: process.stderr }, Presets.shades_classic)
    this.#bar.start(total, 0, { detail: '' })
  }

  #remark(event: RunEvent): void {
    const text = describe(event)
    if (!text) return
    this.stop()
    this.#output.note(text)
  }
}

/** Seconds between lines of the same stage. */
const LINE_SECONDS = 10

/**
 * Few lines, for logs: a stage at its beginning and, when it took long, at its end; in between, and while training, a
 * line every ten seconds, later every twentieth of the time that went by. Nobody reads a thousand lines of a long run.
 */
export class LineProgress implements Progress {
  readonly #output: Output
  readonly #pace = new Pace()
  #stage = ''
  #began = 0
  #last = 0

  constructor(output: Output) {
    this.#output = output
  }

  show(event: RunEvent): void {
    if (event.type === 'step') {
      const detail = describeStep(event, this.#pace.add(event))
      this.#count('training', event.step, event.totalSteps, `step ${event.step}/${event.totalSteps}  ${detail}`)
    } else if (event.type === 'progress') {
      const { stage, done, total, unit } = event
      this.#count(stage, done, total, `${stage} ${amount(done, unit)}/${amount(total, unit)}`)
    } else {
      const text = describe(event)
      if (text) this.#output.note(text)
    }
  }

  stop(): void {}

  #count(stage: string, done: number, total: number, text: string): void {
    const now = Date.now() / 1000
    const first = stage !== this.#stage
    if (first) {
      this.#stage = stage
      this.#began = now
    }
    const due = now - this.#last >= Math.max(LINE_SECONDS, (now - this.#began) / 20)
    const ended = done >= total && (stage === 'training' || now - this.#began >= LINE_SECONDS)
    if (!first && !due && !ended) return
    this.#last = now
    this.#output.note(text)
  }
}

/** Mean time of the steps so far, of which single ones may be far off. */
class Pace {
  #seconds = 0
  #steps = 0

  /** Seconds per step, this one included. */
  add({ secondsPerStep }: StepEvent): number {
    this.#seconds += secondsPerStep
    this.#steps += 1
    return this.#seconds / this.#steps
  }
}

function describeStep({ loss, step, totalSteps }: StepEvent, secondsPerStep: number): string {
  const left = Math.round((totalSteps - step) * secondsPerStep)
  return `loss ${loss.toFixed(4)}  ${secondsPerStep.toFixed(2)} s/step  ${left} s left`
}

function describe(event: RunEvent): string | undefined {
  switch (event.type) {
    case 'started':
      return `run folder ${event.runDir}: ${event.totalSteps} steps, ${event.trainableParameters} trainable parameters`
    case 'evaluation':
      return `evaluation at step ${event.step}: held-out loss ${event.loss.toFixed(4)}`
    case 'sample':
      return `sample ${event.path}`
    case 'checkpoint':
      return `checkpoint ${event.path}`
    case 'warning':
      return `warning ${event.code}: ${event.message}`
    default:
      return undefined
  }
}

function amount(count: number, unit?: 'bytes'): string {
  return unit === 'bytes' ? inBytes(count) : String(count)
}

const UNITS = ['B', 'kB', 'MB', 'GB', 'TB']

/** 12345678 → `12.3 MB`, as disks and hubs count. */
export function inBytes(count: number): string {
  const step = count < 1000 ? 0 : Math.min(Math.floor(Math.log10(count) / 3), UNITS.length - 1)
  return `${step === 0 ? count : (count / 1000 ** step).toFixed(1)} ${UNITS[step]}`
}
