import type { Gradients } from '../tensor/gradients'
import type { Parameter } from '../tensor/parameter'
import type { StateDict } from '../tensor/safetensors'

/** Options of one optimizer step. */
export interface OptimizerStepOptions {
  /** Learning rate of this step. Default: the optimizer's own. */
  lr?: number
}

/** What updates parameters from gradients. Implement it for an optimizer of one's own. */
export interface Optimizer {
  /** What it trains. */
  readonly parameters: readonly Parameter[]
  /** Learning rate of steps that name none. */
  lr: number
  /** One step of every parameter. */
  step(gradients: Gradients, options?: OptimizerStepOptions): Promise<void>
  /** What a resume needs, as named tensors. */
  stateDict(): StateDict
  /** Takes over what {@link stateDict} gave. */
  loadStateDict(state: StateDict): void
}
