//! `FlowMatchingPipeline`.

use flowtune_flow::shift::FlowShift;
use flowtune_flow::timesteps::{Sigmas, TimestepSampling};
use flowtune_flow::weighting::LossWeighting;
use flowtune_flow::{FlowMatchingOptions, FlowMatchingPipeline as FlowPipeline, Flux2Adapter as FlowAdapter};
use napi_derive::napi;
use serde::Deserialize;

use crate::error::{Failure, Result, guarded};
use crate::flux2_adapter::Flux2Adapter;
use crate::tensor::Tensor;

/// Draws noise levels and forms the training step.
#[napi]
pub struct FlowMatchingPipeline {
    inner: FlowPipeline<FlowAdapter>,
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

#[napi]
impl FlowMatchingPipeline {
    /// A pipeline; options are JSON, what is left out has the default of NeMo Automodel.
    #[napi(constructor)]
    pub fn new(adapter: &Flux2Adapter, options_json: String) -> Result<Self> {
        guarded(|| Ok(Self { inner: FlowPipeline::new(adapter.inner, options(&options_json)?, None) }))
    }

    /// Noise levels of a batch of images of `tokens` tokens, a function of the seed and the step.
    #[napi]
    pub fn sample_timesteps(&self, batch: u32, tokens: u32, seed: u32, step: u32) -> Result<Timesteps> {
        let key = (seed.into(), step.into(), 0);
        guarded(|| Ok(self.inner.sample_timesteps(key, batch as usize, tokens as usize)?.into()))
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Options {
    timestep_sampling: Option<TimestepSampling>,
    logit_mean: Option<f64>,
    logit_std: Option<f64>,
    flow_shift: Option<FlowShift>,
    sigma_min: Option<f64>,
    sigma_max: Option<f64>,
    mix_uniform_ratio: Option<f64>,
    use_sigma_noise: Option<bool>,
    loss_weighting: Option<LossWeighting>,
    cfg_dropout_prob: Option<f64>,
    max_loss: Option<f64>,
}

fn options(json: &str) -> Result<FlowMatchingOptions, Failure> {
    let given: Options = serde_json::from_str(json)
        .map_err(|error| Failure::new("INVALID_ARGUMENT", format!("FlowMatchingPipeline options: {error}")))?;
    let default = FlowMatchingOptions::default();
    Ok(FlowMatchingOptions {
        timestep_sampling: given.timestep_sampling.unwrap_or(default.timestep_sampling),
        logit_mean: given.logit_mean.unwrap_or(default.logit_mean),
        logit_std: given.logit_std.unwrap_or(default.logit_std),
        flow_shift: given.flow_shift.unwrap_or(default.flow_shift),
        sigma_min: given.sigma_min.unwrap_or(default.sigma_min),
        sigma_max: given.sigma_max.unwrap_or(default.sigma_max),
        mix_uniform_ratio: given.mix_uniform_ratio.unwrap_or(default.mix_uniform_ratio),
        use_sigma_noise: given.use_sigma_noise.unwrap_or(default.use_sigma_noise),
        loss_weighting: given.loss_weighting.unwrap_or(default.loss_weighting),
        cfg_dropout_prob: given.cfg_dropout_prob.unwrap_or(default.cfg_dropout_prob),
        max_loss: given.max_loss.unwrap_or(default.max_loss),
    })
}
