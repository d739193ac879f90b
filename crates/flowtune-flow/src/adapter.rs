//! What differs from model to model in a flow-matching step.

use flowtune_engine::{Tape, Tensor, Var};
use flowtune_models::transformer::{Flux2Inputs, Flux2Transformer};

use crate::context::FlowMatchingContext;
use crate::error::Result;

/// Turns a step's context into model inputs and the model's output into a prediction of ε − x₀.
/// Source: NeMo Automodel `flow_matching/adapters/base.py`.
///
/// ```
/// use flowtune_engine::{Tape, Tensor, Var};
/// use flowtune_flow::{FlowMatchingContext, Flux2Adapter, ModelAdapter, Result};
/// use flowtune_models::transformer::{Flux2Inputs, Flux2Transformer};
///
/// /// FLUX.2's adapter, with a loss that keeps predictions small.
/// struct Calm(Flux2Adapter);
///
/// impl ModelAdapter for Calm {
///     fn prepare_inputs(&self, context: &FlowMatchingContext) -> Result<Flux2Inputs> {
///         self.0.prepare_inputs(context)
///     }
///
///     fn forward(&self, tape: &Tape, model: &Flux2Transformer, inputs: &Flux2Inputs, c: &FlowMatchingContext) -> Result<Var> {
///         self.0.forward(tape, model, inputs, c)
///     }
///
///     fn auxiliary_losses(
///         &self,
///         tape: &Tape,
///         _: &Flux2Inputs,
///         prediction: &Var,
///         _: &FlowMatchingContext,
///     ) -> Result<Vec<(String, Var)>> {
///         let energy = tape.mean(&tape.square(prediction)?, &[0, 1, 2, 3], false)?;
///         Ok(vec![("energy".to_owned(), tape.scale(&energy, 0.01)?)])
///     }
/// }
/// ```
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

    /// Loss of each element, float32 of the prediction's shape, which the pipeline weights, masks and averages. None,
    /// the default, is the squared error, computed in one pass with the rest.
    ///
    /// # Errors
    /// What the implementation returns.
    fn compute_loss(
        &self,
        _: &Tape,
        _prediction: &Var,
        _target: &Tensor,
        _: &FlowMatchingContext,
    ) -> Result<Option<Var>> {
        Ok(None)
    }

    /// Named scalars added to the loss and to the metrics; none by default.
    ///
    /// # Errors
    /// What the implementation returns.
    fn auxiliary_losses(
        &self,
        _: &Tape,
        _inputs: &Flux2Inputs,
        _prediction: &Var,
        _: &FlowMatchingContext,
    ) -> Result<Vec<(String, Var)>> {
        Ok(Vec::new())
    }
}
