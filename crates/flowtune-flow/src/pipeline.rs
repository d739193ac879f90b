//! The training step. Source: NeMo Automodel `flow_matching/pipeline.py`, `FlowMatchingPipeline`.

use flowtune_engine::{Tape, Tensor};
use flowtune_models::transformer::Flux2Transformer;

use crate::adapter::ModelAdapter;
use crate::context::Batch;
use crate::error::Result;
use crate::flow_matching::{FlowMatching, Given, Key, StepOutput};
use crate::options::FlowMatchingOptions;

/// Flow matching: noise in, velocity out, squared error.
#[derive(Debug, Clone)]
pub struct FlowMatchingPipeline<A> {
    /// What knows the model.
    pub adapter: A,
    /// What is the same for every model.
    pub flow: FlowMatching,
}

impl<A: ModelAdapter> FlowMatchingPipeline<A> {
    /// A pipeline; `empty_prompt` `[tokens, dim]` stands in for dropped captions, zeros when none.
    pub fn new(adapter: A, options: FlowMatchingOptions, empty_prompt: Option<Tensor>) -> Self {
        Self { adapter, flow: FlowMatching::new(options, empty_prompt) }
    }

    /// One forward pass to the loss.
    ///
    /// # Errors
    /// `LOSS_DIVERGED` when the loss is not finite or above `max_loss`; `SHAPE_MISMATCH`; the adapter's.
    pub fn step(
        &self,
        tape: &Tape,
        model: &Flux2Transformer,
        batch: &Batch,
        key: Key,
        given: Given,
    ) -> Result<StepOutput> {
        let step = self.flow.prepare(batch, key, given)?;
        let (adapter, context) = (&self.adapter, &step.context);
        let inputs = adapter.prepare_inputs(context)?;
        let prediction = adapter.forward(tape, model, &inputs, context)?;
        let prediction = adapter.post_process_prediction(tape, prediction, context)?;
        let elements = adapter.compute_loss(tape, &prediction, &step.target, context)?;
        let auxiliary = adapter.auxiliary_losses(tape, &inputs, &prediction, context)?;
        self.flow.loss(tape, &step, &prediction, elements, auxiliary, true)
    }
}
