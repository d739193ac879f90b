//! The parts of a flow-matching step that no adapter changes.

use std::sync::Arc;

use flowtune_engine::{Tape, Value};
use flowtune_flow::shift::{TimeShift, time_shift as shift_time};
use flowtune_flow::timesteps::Sigmas;
use flowtune_flow::weighting::bsmntw_table as table;
use flowtune_flow::{Batch, FlowMatching as Flow, FlowMatchingContext, Given, PreparedStep as FlowStep};
use flowtune_train::flow_matching_options;
use napi::Env;
use napi::bindgen_prelude::{Float32Array, Object};
use napi_derive::napi;
use serde::Deserialize;
use serde::de::IntoDeserializer;
use serde::de::value::Error as NameError;

use crate::error::{Failure, Result, guarded, to_json};
use crate::executor::promise;
use crate::tensor::{Tensor, TensorField, nested_fields, optional, optional_field};

/// Draws noise levels, forms the step's tensors, and the loss.
#[napi]
pub struct FlowMatching {
    inner: Arc<Flow>,
}

/// Noise levels of a batch.
#[napi(object, object_from_js = false)]
pub struct Timesteps {
    /// float32 `[batch]`, 0..1.
    pub sigma: Tensor,
    /// float32 `[batch]`, 1000 · sigma.
    pub timesteps: Tensor,
    /// What drew them.
    pub method: &'static str,
}

impl From<Sigmas> for Timesteps {
    fn from(Sigmas { sigma, timesteps, method }: Sigmas) -> Self {
        Self { sigma: sigma.into(), timesteps: timesteps.into(), method }
    }
}

/// The draws behind a batch's noise levels.
#[napi(object, object_from_js = false)]
pub struct Draws {
    /// `[batch]`, uniform in 0..1.
    pub uniform: Float32Array,
    /// `[batch]`, standard normal.
    pub normal: Float32Array,
}

/// What all randomness of a step is a function of.
#[napi(object)]
pub struct Key {
    /// Seed of the run.
    pub seed: f64,
    /// Step.
    pub step: f64,
    /// Number of the batch's first sample within the step.
    pub first: f64,
}

impl Key {
    fn numbers(&self) -> (u64, u64, u64) {
        (self.seed as u64, self.step as u64, self.first as u64)
    }
}

#[napi]
impl FlowMatching {
    /// Options are JSON; what is left out has the default of NeMo Automodel.
    #[napi(constructor)]
    pub fn new(options_json: String, empty_prompt: Option<&Tensor>) -> Result<Self> {
        guarded(|| {
            let flow = Flow::new(flow_matching_options(&options_json)?, optional(empty_prompt)?);
            Ok(Self { inner: Arc::new(flow) })
        })
    }

    /// The options with their defaults, as JSON.
    #[napi]
    pub fn options(&self) -> Result<String> {
        guarded(|| to_json(&self.inner.options))
    }

    /// Noise levels of a batch of images of `tokens` tokens.
    #[napi]
    pub fn sample_timesteps(&self, key: Key, batch: u32, tokens: u32) -> Result<Timesteps> {
        guarded(|| Ok(self.inner.sample_timesteps(key.numbers(), batch as usize, tokens as usize)?.into()))
    }

    /// The draws that `sample_timesteps` uses.
    #[napi]
    pub fn draws(&self, key: Key, batch: u32) -> Draws {
        let (uniform, normal) = self.inner.draws(key.numbers(), batch as usize);
        Draws { uniform: uniform.into(), normal: normal.into() }
    }

    /// Noise levels from given draws.
    #[napi]
    pub fn sigmas_of(&self, uniform: &[f32], normal: &[f32], tokens: u32) -> Result<Timesteps> {
        guarded(|| Ok(self.inner.sigmas_of(uniform, normal, tokens as usize)?.into()))
    }

    /// Weight of each sample by its noise level, `[batch]`.
    #[napi]
    pub fn loss_weights(&self, sigma: &Tensor, tokens: u32) -> Result<Tensor> {
        guarded(|| Ok(self.inner.loss_weights(&sigma.get()?, tokens as usize)?.into()))
    }

    /// Everything of a step up to the adapter.
    #[napi(ts_return_type = "Promise<PreparedStep>")]
    pub fn prepare<'env>(
        &self,
        env: &'env Env,
        batch: BatchTensors,
        key: Key,
        given: GivenTensors,
    ) -> napi::Result<Object<'env>> {
        let (flow, batch, given) = (Arc::clone(&self.inner), batch.get(), given.get());
        promise(env, move || Ok(PreparedStep { inner: Arc::new(flow.prepare(&batch?, key.numbers(), given?)?) }))
    }

    /// The loss of a prediction: squared errors, or the adapter's own `elements`, weighted, masked and averaged, plus
    /// the auxiliary losses.
    #[napi(ts_return_type = "Promise<StepOutput>")]
    #[allow(clippy::too_many_arguments)] // one per part of the loss
    pub fn loss<'env>(
        &self,
        env: &'env Env,
        step: &PreparedStep,
        prediction: &Tensor,
        elements: Option<&Tensor>,
        names: Vec<String>,
        auxiliary: Vec<&Tensor>,
        check_loss: bool,
    ) -> napi::Result<Object<'env>> {
        let (flow, step) = (Arc::clone(&self.inner), Arc::clone(&step.inner));
        let has_elements = elements.is_some();
        let tensors = std::iter::once(prediction).chain(elements).chain(auxiliary);
        let values = tensors.map(Tensor::value).collect::<Result<Vec<Value>, Failure>>();
        promise(env, move || {
            let values = values?;
            let mut metrics = None;
            let outputs = Value::apply(Tape::new(), &values.iter().collect::<Vec<_>>(), |tape, vars| {
                let (elements, auxiliary) = vars[1..].split_at(usize::from(has_elements));
                let auxiliary = names.into_iter().zip(auxiliary.iter().cloned()).collect();
                let output = flow.loss(tape, &step, &vars[0], elements.first().cloned(), auxiliary, check_loss)?;
                metrics = Some(output.metrics);
                Ok::<_, flowtune_flow::Error>(vec![output.loss])
            })?;
            let loss = outputs.into_iter().next().map(Tensor::from);
            let missing = || Failure::new("INTERNAL", "the step gave no loss");
            Ok(StepOutput { loss: loss.ok_or_else(missing)?, metrics_json: to_json(&metrics)? })
        })
    }
}

/// Tensors of a batch.
#[napi(object, object_to_js = false)]
pub struct BatchTensors {
    /// `[batch, 128, h, w]`.
    pub image_latents: TensorField,
    /// `[batch, tokens, dim]`.
    pub text_embeddings: TensorField,
    /// 0 leaves an element out of the loss.
    pub loss_mask: Option<TensorField>,
    /// `[batch]`.
    pub guidance: Option<TensorField>,
    /// Per sample, `[128, h, w]` or `[1, 128, h, w]` each.
    pub references: Option<Vec<Vec<TensorField>>>,
}

impl BatchTensors {
    /// The batch as the core has it.
    pub fn get(self) -> Result<Batch, Failure> {
        Ok(Batch {
            image_latents: self.image_latents.get()?,
            text_embeddings: self.text_embeddings.get()?,
            loss_mask: optional_field(self.loss_mask)?,
            guidance: optional_field(self.guidance)?,
            references: nested_fields(self.references)?,
        })
    }
}

/// What a caller fixes instead of leaving it to the seed.
#[napi(object, object_to_js = false)]
pub struct GivenTensors {
    /// `[batch]`.
    pub sigma: Option<TensorField>,
    /// Of the latents' shape.
    pub noise: Option<TensorField>,
    /// `[batch]`.
    pub weight: Option<TensorField>,
    /// Per sample, whether its caption is dropped.
    pub drop_caption: Option<Vec<bool>>,
}

impl GivenTensors {
    fn get(self) -> Result<Given, Failure> {
        Ok(Given {
            sigma: optional_field(self.sigma)?,
            noise: optional_field(self.noise)?,
            weight: optional_field(self.weight)?,
            drop_caption: self.drop_caption,
        })
    }
}

/// A step up to the adapter.
#[napi]
pub struct PreparedStep {
    inner: Arc<FlowStep>,
}

impl PreparedStep {
    fn context(&self) -> &FlowMatchingContext {
        &self.inner.context
    }
}

#[napi]
impl PreparedStep {
    /// x_t, `[batch, 128, h, w]`.
    #[napi(getter)]
    pub fn noisy_latents(&self) -> Tensor {
        self.context().noisy_latents.clone().into()
    }

    /// σ, `[batch]`.
    #[napi(getter)]
    pub fn sigma(&self) -> Tensor {
        self.context().sigma.clone().into()
    }

    /// 1000 · σ, `[batch]`.
    #[napi(getter)]
    pub fn timesteps(&self) -> Tensor {
        self.context().timesteps.clone().into()
    }

    /// ε − x₀, `[batch, 128, h, w]`.
    #[napi(getter)]
    pub fn target(&self) -> Tensor {
        self.inner.target.clone().into()
    }

    /// ε, `[batch, 128, h, w]`.
    #[napi(getter)]
    pub fn noise(&self) -> Tensor {
        self.inner.noise.clone().into()
    }

    /// Weight per sample, `[batch]`.
    #[napi(getter)]
    pub fn weight(&self) -> Tensor {
        self.inner.weight.clone().into()
    }

    /// Per sample, whether its caption is dropped.
    #[napi(getter)]
    pub fn drop_caption(&self) -> Vec<bool> {
        self.context().drop_caption.clone()
    }
}

/// The loss of a step.
#[napi(object, object_from_js = false)]
pub struct StepOutput {
    /// Scalar.
    pub loss: Tensor,
    /// Metrics as JSON.
    pub metrics_json: String,
}

/// NeMo Automodel's `time_shift` for every `t`.
#[napi]
pub fn time_shift(t: &[f32], tokens: u32, kind: String) -> Result<Float32Array> {
    guarded(|| {
        let deserializer: serde::de::value::StrDeserializer<NameError> = kind.as_str().into_deserializer();
        let kind = TimeShift::deserialize(deserializer).map_err(|_| {
            Failure::new("RECIPE_INVALID", format!("type must be linear, sqrt or constant, got \"{kind}\""))
        })?;
        Ok(t.iter().map(|&t| shift_time(t, tokens as usize, kind)).collect::<Vec<f32>>().into())
    })
}

/// The table behind the weighting `bsmntw`, `[1000]`.
#[napi]
pub fn bsmntw_table() -> Float32Array {
    table().into()
}

/// Noise levels of FLUX.2's sampler, `[steps + 1]`.
#[napi]
pub fn euler_sigmas(tokens: u32, steps: u32) -> Float32Array {
    flowtune_flow::sampling::euler_sigmas(tokens as usize, steps as usize).into()
}
