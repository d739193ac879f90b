//! What a step tells about itself.

use flowtune_engine::Tensor;
use serde::Serialize;

use crate::error::Result;
use crate::flow_matching::PreparedStep;

/// What happened in a step.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs)] // the names are Automodel's and say it all
pub struct Metrics {
    pub loss: f64,
    pub unweighted_loss: f64,
    pub sigma_min: f32,
    pub sigma_max: f32,
    pub sigma_mean: f32,
    pub weight_min: f32,
    pub weight_max: f32,
    pub timestep_min: f32,
    pub timestep_max: f32,
    pub noisy_min: f32,
    pub noisy_max: f32,
    pub sampling_method: &'static str,
    pub task_type: &'static str,
    pub data_type: &'static str,
    pub auxiliary: Vec<(String, f64)>,
}

pub(crate) fn metrics(
    loss: f64,
    unweighted_loss: f64,
    step: &PreparedStep,
    auxiliary: Vec<(String, f64)>,
) -> Result<Metrics> {
    let context = &step.context;
    let (sigma_min, sigma_max) = range(&context.sigma)?;
    let (weight_min, weight_max) = range(&step.weight)?;
    let (timestep_min, timestep_max) = range(&context.timesteps)?;
    let (noisy_min, noisy_max) = range(&context.noisy_latents)?;
    let sigma = context.sigma.as_slice::<f32>()?;
    Ok(Metrics {
        loss,
        unweighted_loss,
        sigma_min,
        sigma_max,
        sigma_mean: sigma.iter().sum::<f32>() / sigma.len() as f32,
        weight_min,
        weight_max,
        timestep_min,
        timestep_max,
        noisy_min,
        noisy_max,
        sampling_method: step.sampling_method,
        task_type: context.task_type,
        data_type: context.data_type,
        auxiliary,
    })
}

fn range(t: &Tensor) -> Result<(f32, f32)> {
    let fold = |(lo, hi): (f32, f32), &x: &f32| (lo.min(x), hi.max(x));
    Ok(t.as_slice::<f32>()?.iter().fold((f32::INFINITY, f32::NEG_INFINITY), fold))
}
