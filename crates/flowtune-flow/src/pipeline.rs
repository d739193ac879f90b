//! The training step. Source: NeMo Automodel `flow_matching/pipeline.py`, `FlowMatchingPipeline`.

use flowtune_engine::ops::elementwise::sub;
use flowtune_engine::ops::loss::interpolate;
use flowtune_engine::{Tape, Tensor, Var};
use flowtune_models::transformer::Flux2Transformer;
use rand::Rng;
use serde::Serialize;

use crate::adapter::ModelAdapter;
use crate::context::{Batch, FlowMatchingContext};
use crate::error::{Error, Result};
use crate::random::{Purpose, normal_batch, stream};
use crate::shift::FlowShift;
use crate::timesteps::{SigmaOptions, Sigmas, TimestepSampling, sample_sigmas};
use crate::weighting::{LossWeighting, bsmntw_table};

/// Options of [`FlowMatchingPipeline`]; the defaults are Automodel's.
#[derive(Debug, Clone)]
pub struct FlowMatchingOptions {
    /// Density of the noise levels.
    pub timestep_sampling: TimestepSampling,
    /// Mean of the normal under `logit_normal`.
    pub logit_mean: f64,
    /// Standard deviation of the normal under `logit_normal`.
    pub logit_std: f64,
    /// Shift of the noise levels.
    pub flow_shift: FlowShift,
    /// Least σ.
    pub sigma_min: f64,
    /// Largest σ.
    pub sigma_max: f64,
    /// Probability that a whole batch is drawn uniformly.
    pub mix_uniform_ratio: f64,
    /// Whether density and shift apply; without, σ ~ U(0, 1).
    pub use_sigma_noise: bool,
    /// Weight of a sample by its σ.
    pub loss_weighting: LossWeighting,
    /// Probability of dropping a caption.
    pub cfg_dropout_prob: f64,
    /// Loss above which a step is an error.
    pub max_loss: f64,
}

impl Default for FlowMatchingOptions {
    fn default() -> Self {
        Self {
            timestep_sampling: TimestepSampling::LogitNormal,
            logit_mean: 0.0,
            logit_std: 1.0,
            flow_shift: FlowShift::Constant(3.0),
            sigma_min: 0.0,
            sigma_max: 1.0,
            mix_uniform_ratio: 0.1,
            use_sigma_noise: true,
            loss_weighting: LossWeighting::Linear,
            cfg_dropout_prob: 0.1,
            max_loss: 100.0,
        }
    }
}

/// Draws that a caller fixes instead of leaving them to the seed.
#[derive(Debug, Clone, Default)]
pub struct Given {
    /// σ, float32 `[batch]`.
    pub sigma: Option<Tensor>,
    /// ε, float32 of the latents' shape.
    pub noise: Option<Tensor>,
}

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

/// The loss of a step, ready for `tape.backward`, and the rest.
#[derive(Debug)]
pub struct StepOutput {
    /// Weighted mean loss plus auxiliary losses; a scalar on the tape.
    pub loss: Var,
    /// The prediction, `[batch, 128, h, w]`.
    pub prediction: Var,
    /// Metrics.
    pub metrics: Metrics,
}

/// Flow matching: noise in, velocity out, squared error.
pub struct FlowMatchingPipeline<A> {
    /// What knows the model.
    pub adapter: A,
    /// Options.
    pub options: FlowMatchingOptions,
    /// What stands in for a dropped caption, `[tokens, dim]`; zeros when none.
    pub empty_prompt: Option<Tensor>,
    table: Vec<f32>,
}

impl<A: ModelAdapter> FlowMatchingPipeline<A> {
    /// A pipeline; see the fields.
    pub fn new(adapter: A, options: FlowMatchingOptions, empty_prompt: Option<Tensor>) -> Self {
        Self { adapter, options, empty_prompt, table: bsmntw_table() }
    }

    /// Noise levels of samples `first..first + batch` of a step for images of `tokens` tokens.
    ///
    /// # Errors
    /// Never for valid options.
    pub fn sample_timesteps(&self, key: (u64, u64, u64), batch: usize, tokens: usize) -> Result<Sigmas> {
        let o = &self.options;
        let options = SigmaOptions {
            sampling: o.timestep_sampling,
            logit_mean: o.logit_mean,
            logit_std: o.logit_std,
            shift: o.flow_shift.factor(tokens),
            sigma_min: o.sigma_min,
            sigma_max: o.sigma_max,
            use_sigma_noise: o.use_sigma_noise,
        };
        sample_sigmas(&options, o.mix_uniform_ratio, key, batch)
    }

    /// One forward pass to the loss. `key` is (run seed, step, number of the batch's first sample within the
    /// step): all randomness is a function of it.
    ///
    /// # Errors
    /// `LOSS_DIVERGED` when the loss is not finite or above `max_loss`; `SHAPE_MISMATCH`.
    pub fn step(
        &self,
        tape: &Tape,
        model: &Flux2Transformer,
        batch: &Batch,
        key: (u64, u64, u64),
        given: Given,
    ) -> Result<StepOutput> {
        let latents = &batch.image_latents;
        let tokens = latents.shape().get(2..).map_or(0, |s| s.iter().product());
        let sigmas = match given.sigma {
            Some(sigma) => Sigmas::new(sigma.to_f32_vec()?, "given")?,
            None => self.sample_timesteps(key, latents.dim(0), tokens)?,
        };
        let noise = match given.noise {
            Some(noise) => noise,
            None => normal_batch(key.0, key.1, key.2, Purpose::Noise, latents.shape())?,
        };
        let context = self.context(batch, &noise, &sigmas, key)?;
        let inputs = self.adapter.prepare_inputs(&context)?;
        let prediction = self.adapter.forward(tape, model, &inputs, &context)?;
        let prediction = self.adapter.post_process_prediction(tape, prediction, &context)?;
        let target = sub(&noise, latents)?;
        let weight = self.weights(&sigmas, tokens)?;
        let main = self.adapter.compute_loss(tape, &prediction, &target, &weight, &context)?;
        let mut loss = main.loss;
        let mut auxiliary = Vec::new();
        for (name, value) in self.adapter.auxiliary_losses(tape, &prediction, &context)? {
            auxiliary.push((name, value.tensor().to_scalar()?));
            loss = tape.add(&loss, &value)?;
        }
        let total = loss.tensor().to_scalar()?;
        if !total.is_finite() || total > self.options.max_loss {
            return Err(Error::LossDiverged { loss: total, limit: self.options.max_loss });
        }
        let metrics = metrics(total, main.unweighted, &context, &weight, sigmas.method, auxiliary)?;
        Ok(StepOutput { loss, prediction, metrics })
    }

    fn context<'a>(
        &'a self,
        batch: &'a Batch,
        noise: &Tensor,
        sigmas: &Sigmas,
        (seed, step, first): (u64, u64, u64),
    ) -> Result<FlowMatchingContext<'a>> {
        let probability = self.options.cfg_dropout_prob;
        let samples = batch.image_latents.dim(0) as u64;
        let drops = |i| stream(seed, step, first + i, Purpose::CaptionDropout).random::<f64>() < probability;
        Ok(FlowMatchingContext {
            noisy_latents: interpolate(&batch.image_latents, noise, &sigmas.sigma)?,
            latents: batch.image_latents.clone(),
            timesteps: sigmas.timesteps.clone(),
            sigma: sigmas.sigma.clone(),
            task_type: "t2i",
            data_type: "image",
            drop_caption: (0..samples).map(drops).collect(),
            empty_prompt: self.empty_prompt.as_ref(),
            batch,
        })
    }

    fn weights(&self, sigmas: &Sigmas, tokens: usize) -> Result<Tensor> {
        let shift = self.options.flow_shift.factor(tokens) as f32;
        let weigh = |&s: &f32| self.options.loss_weighting.weight(s, shift, &self.table);
        let weights: Vec<f32> = sigmas.sigma.as_slice::<f32>()?.iter().map(weigh).collect();
        Ok(Tensor::from_vec(weights, sigmas.sigma.shape())?)
    }
}

fn metrics(
    loss: f64,
    unweighted_loss: f64,
    context: &FlowMatchingContext,
    weight: &Tensor,
    sampling_method: &'static str,
    auxiliary: Vec<(String, f64)>,
) -> Result<Metrics> {
    let (sigma_min, sigma_max) = range(&context.sigma)?;
    let (weight_min, weight_max) = range(weight)?;
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
        sampling_method,
        task_type: context.task_type,
        data_type: context.data_type,
        auxiliary,
    })
}

fn range(t: &Tensor) -> Result<(f32, f32)> {
    let fold = |(lo, hi): (f32, f32), &x: &f32| (lo.min(x), hi.max(x));
    Ok(t.as_slice::<f32>()?.iter().fold((f32::INFINITY, f32::NEG_INFINITY), fold))
}
