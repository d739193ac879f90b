import { guard } from '../errors'
import { native } from '../native'
import type { LrScheduleRecipe } from '../recipe-types'

/** As in a recipe's `lrSchedule`, with what the recipe says elsewhere. */
export interface LrScheduleOptions extends LrScheduleRecipe {
  /** Learning rate after warm-up. */
  lr: number
  /** Optimizer steps of the whole run. */
  totalSteps: number
}

/** Where a schedule is. */
export interface LrScheduleState {
  /** Steps behind it. */
  step: number
}

/**
 * The learning rate over a run, after transformers' `get_cosine_schedule_with_warmup` and its siblings.
 *
 * @example
 * ```ts
 * const schedule = new LrSchedule({ type: 'cosine', lr: 1e-4, totalSteps: 1000, warmupSteps: 50 })
 * await optimizer.step(gradients, { lr: schedule.lr })
 * schedule.step()
 * ```
 */
export class LrSchedule {
  readonly #base: number
  readonly #totalSteps: number
  readonly #json: string
  #index = 0

  /** @throws FlowtuneError `RECIPE_INVALID` */
  constructor({ lr, totalSteps, ...schedule }: LrScheduleOptions) {
    this.#base = lr
    this.#totalSteps = totalSteps
    this.#json = JSON.stringify(schedule)
    this.at(0)
  }

  /** Learning rate of the step that comes next. */
  get lr(): number {
    return this.at(this.#index)
  }

  /** Learning rate of the step with this index, counted from 0. */
  at(index: number): number {
    return guard(() => native().learningRate(this.#json, this.#base, this.#totalSteps, index))
  }

  /** Goes on to the next step. */
  step(): void {
    this.#index += 1
  }

  /** What a resume needs. */
  stateDict(): LrScheduleState {
    return { step: this.#index }
  }

  /** Takes over what {@link stateDict} gave. */
  loadStateDict({ step }: LrScheduleState): void {
    this.#index = step
  }
}
