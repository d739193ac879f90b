//! What differs from model to model in a flow-matching step.

use flowtune_engine::ops::loss::WeightedMse;
use flowtune_engine::{Tape, Tensor, Var};
use flowtune_models::transformer::{Flux2Inputs, Flux2Transformer};

use crate::context::FlowMatchingContext;
use crate::error::Result;

/// Turns a step's context into model inputs and the model's output into a prediction of ε − x₀.
/// Source: NeMo Automodel `flow_matching/adapters/base.py`.
pub trait ModelAdapter: Send + Sync {
    /// Inputs of the model for this step.
    ///
    /// # Errors
    /// `SHAPE_MISMATCH` naming what does not fit.
    fn prepare_inputs(&self, context: &FlowMatchingContext) -> Result<Flux2Inputs>;

    /// Runs the model; the prediction has the latents' shape `[batch, 128, h, w]`.
    ///
    /// # Errors
    /// What the model returns.
    fn forward(
        &self,
        tape: &Tape,
        model: &Flux2Transformer,
        inputs: &Flux2Inputs,
        context: &FlowMatchingContext,
    ) -> Result<Var>;

    /// Changes the prediction before the loss; nothing by default.
    ///
    /// # Errors
    /// What the implementation returns.
    fn post_process_prediction(&self, _: &Tape, prediction: Var, _: &FlowMatchingContext) -> Result<Var> {
        Ok(prediction)
    }

    /// The loss: by default the weighted mean squared error over unmasked elements.
    ///
    /// # Errors
    /// `SHAPE_MISMATCH` when prediction and target differ in shape.
    fn compute_loss(
        &self,
        tape: &Tape,
        prediction: &Var,
        target: &Tensor,
        weight: &Tensor,
        context: &FlowMatchingContext,
    ) -> Result<WeightedMse> {
        Ok(tape.weighted_mse(prediction, target, weight, context.batch.loss_mask.as_ref())?)
    }

    /// Named scalars added to the loss and to the metrics; none by default.
    ///
    /// # Errors
    /// What the implementation returns.
    fn auxiliary_losses(&self, _: &Tape, _: &Var, _: &FlowMatchingContext) -> Result<Vec<(String, Var)>> {
        Ok(Vec::new())
    }
}
