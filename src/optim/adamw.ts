import { guard, guardAsync } from '../errors'
import { type NativeAdamW, native } from '../native'
import type { OptimizerRecipe } from '../recipe-types'
import { Gradients } from '../tensor/gradients'
import type { Parameter } from '../tensor/parameter'
import { namesAndHandles, type StateDict } from '../tensor/safetensors'
import { Tensor } from '../tensor/tensor'
import type { Optimizer, OptimizerStepOptions } from './optimizer'

/** As in a recipe's `optimizer`. */
export type AdamWOptions = Omit<OptimizerRecipe, 'type'>

/**
 * Adam with decoupled weight decay (arXiv:1711.05101), bit for bit in the order of `torch.optim.AdamW`. Moments are
 * float32.
 */
export class AdamW implements Optimizer {
  readonly parameters: readonly Parameter[]
  lr: number
  readonly #handle: NativeAdamW

  /**
   * @param parameters what it trains
   * @param options defaults: `lr` 1e-4, `beta1` 0.9, `beta2` 0.999, `eps` 1e-8, `weightDecay` 0.01
   * @throws FlowtuneError `RECIPE_INVALID`
   */
  constructor(parameters: readonly Parameter[], options: AdamWOptions = {}) {
    this.parameters = parameters
    this.lr = options.lr ?? 1e-4
    this.#handle = guard(
      () =>
        new (native().AdamW)(
          parameters.map((parameter) => parameter.handle),
          JSON.stringify(options),
        ),
    )
  }

  /**
   * One step of every parameter.
   *
   * @throws FlowtuneError `INVALID_ARGUMENT` when a parameter has no gradient; nothing has changed then
   */
  async step(gradients: Gradients, { lr = this.lr }: OptimizerStepOptions = {}): Promise<void> {
    await guardAsync(() => this.#handle.step(Gradients.unwrap(gradients), lr))
  }

  /** `step` (int64 `[1]`) and, by parameter, `NAME.exp_avg` and `NAME.exp_avg_sq`. Write it out before the next step. */
  stateDict(): StateDict {
    return guard(() => Object.fromEntries(this.#handle.state().map(({ name, tensor }) => [name, Tensor.wrap(tensor)])))
  }

  /**
   * @throws FlowtuneError `CHECKPOINT_LAYOUT` naming the tensor that is missing, too many, or of another shape; nothing
   * has changed then
   */
  loadStateDict(state: StateDict): void {
    const [names, handles] = namesAndHandles(state)
    guard(() => this.#handle.loadState(names, handles))
  }
}
