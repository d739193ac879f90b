import type { Flux2Transformer } from '../models/transformer'
import type { Tensor } from '../tensor/tensor'
import type { Batch, FlowMatchingContext } from './context'

/** A value, or a promise of it. */
export type Awaitable<T> = T | Promise<T>

/**
 * What differs from model to model in a flow-matching step: subclass it, or {@link Flux2Adapter}, to change what the
 * model sees and what the loss is. After NeMo Automodel's `flow_matching/adapters/base.py`.
 *
 * {@link FlowMatchingPipeline.step} calls the methods in the order in which they stand here. All may be async; gradients
 * flow through whatever is computed with tensors.
 *
 * @typeParam Inputs - what {@link prepareInputs} gives to {@link forward}
 * @typeParam B - the batch
 * @typeParam Model - the model
 *
 * @example An auxiliary loss that keeps predictions small
 * ```ts
 * class Calm extends Flux2Adapter {
 *   override auxiliaryLosses(_inputs: Flux2Inputs, prediction: Tensor<4>) {
 *     return { energy: prediction.square().mean().mul(0.01) }
 *   }
 * }
 * ```
 */
export abstract class ModelAdapter<Inputs = unknown, B extends Batch = Batch, Model = Flux2Transformer> {
  /** Keys that a batch may have; anything else is refused, so that no typing error goes unseen. Undefined: any key. */
  get batchKeys(): readonly string[] | undefined {
    return undefined
  }

  /** Inputs of the model for this step. */
  abstract prepareInputs(context: FlowMatchingContext<B>): Awaitable<Inputs>

  /** Runs the model; the prediction of ε − x₀ has the latents' shape `[batch, 128, h, w]`. */
  abstract forward(model: Model, inputs: Inputs, context: FlowMatchingContext<B>): Awaitable<Tensor<4>>

  /** Changes the prediction before the loss; nothing by default. */
  postProcessPrediction(prediction: Tensor<4>, _context: FlowMatchingContext<B>): Awaitable<Tensor<4>> {
    return prediction
  }

  /**
   * Loss of each element, float32 of the prediction's shape; the pipeline weights and masks it and takes the mean.
   * Undefined, the default, is the squared error, which the core computes in one pass. The target is ε − x₀,
   * `[batch, 128, h, w]`.
   */
  computeLoss(
    _prediction: Tensor<4>,
    _target: Tensor<4>,
    _context: FlowMatchingContext<B>,
  ): Awaitable<Tensor<4> | undefined> {
    return undefined
  }

  /** Named scalars that are added to the loss and to the metrics; none by default. */
  auxiliaryLosses(
    _inputs: Inputs,
    _prediction: Tensor<4>,
    _context: FlowMatchingContext<B>,
  ): Awaitable<Record<string, Tensor<0>> | undefined> {
    return undefined
  }
}
