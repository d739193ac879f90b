//! The training step. Source: NeMo Automodel `flow_matching/pipeline.py`, `FlowMatchingPipeline`.

use flowtune_engine::{Tape, Tensor};
use flowtune_models::transformer::Flux2Transformer;

use crate::adapter::ModelAdapter;
use crate::context::Batch;
use crate::error::Result;
use crate::flow_matching::{FlowMatching, Given, Key, StepOutput};
use crate::options::FlowMatchingOptions;

/// Flow matching: noise in, velocity out, squared error.
///
/// ```
/// use flowtune_engine::{Gradients, Tape, Tensor};
/// use flowtune_flow::{Batch, FlowMatchingOptions, FlowMatchingPipeline, Flux2Adapter, Given};
/// use flowtune_models::lora::{LoraConfig, add_lora};
/// use flowtune_models::Precision;
/// use flowtune_models::transformer::{Flux2Config, Flux2Transformer};
///
/// # fn main() -> flowtune_flow::Result<()> {
/// # let config = Flux2Config {
/// #     in_channels: 8,
/// #     num_layers: 1,
/// #     num_single_layers: 1,
/// #     attention_head_dim: 8,
/// #     num_attention_heads: 2,
/// #     joint_attention_dim: 6,
/// #     axes_dims_rope: vec![2; 4],
/// #     guidance_embeds: false,
/// #     ..Flux2Config::default()
/// # };
/// let model = Flux2Transformer::random(config, 0, Precision::FLOAT32)?;
/// let params = add_lora(&model, &LoraConfig::default(), 0)?;
/// let adapter = Flux2Adapter { use_guidance_embeds: model.config().guidance_embeds, ..Flux2Adapter::default() };
/// let pipeline = FlowMatchingPipeline::new(adapter, FlowMatchingOptions::default(), None);
///
/// let batch = Batch {
///     image_latents: Tensor::full(0.5f32, &[2, 8, 3, 2]),
///     text_embeddings: Tensor::full(0.5f32, &[2, 4, 6]),
///     loss_mask: None,
///     guidance: None,
///     references: Vec::new(),
/// };
/// let (tape, mut gradients) = (Tape::new(), Gradients::new());
/// // The first step of the run with seed 7.
/// let output = pipeline.step(&tape, &model, &batch, (7, 0, 0), Given::default())?;
/// tape.backward(&output.loss, Tensor::full(1f32, &[]), &[], &mut gradients)?;
/// assert_eq!(gradients.ids().count(), params.len());
/// # Ok(()) }
/// ```
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
