import { Presets, SingleBar } from 'cli-progress'
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
  #bar: SingleBar | undefined
  #stage = ''

  constructor(output: Output) {
    this.#output = output
  }

  show(event: RunEvent): void {
    if (event.type === 'step') this.#update('training', event.step, event.totalSteps, describeStep(event))
    else if (event.type === 'progress') this.#update(event.stage, event.done, event.total, '')
    else this.#remark(event)
  }

  stop(): void {
    this.#bar?.stop()
    this.#bar = undefined
    this.#stage = ''
  }

  #update(stage: string, done: number, total: number, detail: string): void {
    if (stage !== this.#stage) this.#begin(stage, total)
    this.#bar?.setTotal(total)
    this.#bar?.update(done, { detail })
    if (done >= total) this.stop()
  }

  #begin(stage: string, total: number): void {
    this.stop()
    this.#stage = stage
    this.#bar = new SingleBar(
      { format: `${stage.padEnd(12)} {bar} {value}/{total} {detail}`, hideCursor: true, stream: process.stderr },
      Presets.shades_classic,
    )
    this.#bar.start(total, 0, { detail: '' })
  }

  #remark(event: RunEvent): void {
    const text = describe(event)
    if (!text) return
    this.stop()
    this.#output.note(text)
  }
}

/** At most about twenty lines a stage. */
class LineProgress implements Progress {
  readonly #output: Output

  constructor(output: Output) {
    this.#output = output
  }

  show(event: RunEvent): void {
    const text = this.#describeCounted(event) ?? describe(event)
    if (text) this.#output.note(text)
  }

  stop(): void {}

  #describeCounted(event: RunEvent): string | undefined {
    if (event.type === 'step' && isShown(event.step, event.totalSteps)) {
      return `step ${event.step}/${event.totalSteps} ${describeStep(event)}`
    }
    if (event.type === 'progress' && isShown(event.done, event.total)) {
      return `${event.stage} ${event.done}/${event.total}`
    }
    return undefined
  }
}

function isShown(done: number, total: number): boolean {
  return done === total || done % Math.max(1, Math.ceil(total / 20)) === 0
}

function describeStep({ loss, lr, secondsPerStep, step, totalSteps }: StepEvent): string {
  const left = Math.round((totalSteps - step) * secondsPerStep)
  return `loss ${loss.toFixed(4)}  lr ${lr.toExponential(1)}  ${secondsPerStep.toFixed(2)} s/step  ${left} s left`
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
