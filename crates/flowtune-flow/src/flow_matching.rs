//! The parts of a training step that no adapter changes: noise in front of the model, the loss behind it.

use flowtune_engine::ops::elementwise::sub;
use flowtune_engine::ops::loss::{WeightedLoss, interpolate};
use flowtune_engine::{Error as EngineError, Tape, Tensor, Var};
use rand::Rng;

use crate::check::check;
use crate::context::{Batch, FlowMatchingContext};
use crate::error::{Error, Result};
use crate::metrics::{Metrics, metrics};
use crate::options::FlowMatchingOptions;
use crate::random::{Purpose, normal_batch, stream};
use crate::timesteps::{SigmaOptions, Sigmas, draws, sample_sigmas, sigmas_of};
use crate::weighting::bsmntw_table;

/// Where a batch is in a run: seed, step, and the number of its first sample within the step. All randomness of a step
/// is a function of this and the sample's number.
pub type Key = (u64, u64, u64);

/// Draws that a caller fixes instead of leaving them to the seed.
#[derive(Debug, Clone, Default)]
pub struct Given {
    /// σ, float32 `[batch]`, 0..1.
    pub sigma: Option<Tensor>,
    /// ε, float32 of the latents' shape.
    pub noise: Option<Tensor>,
    /// Weight of each sample, float32 `[batch]`, instead of the weighting's.
    pub weight: Option<Tensor>,
    /// Per sample, whether its caption is dropped.
    pub drop_caption: Option<Vec<bool>>,
}

/// A step up to the adapter.
#[derive(Debug, Clone)]
pub struct PreparedStep {
    /// What the adapter is told.
    pub context: FlowMatchingContext,
    /// ε, `[batch, 128, h, w]`.
    pub noise: Tensor,
    /// ε − x₀, `[batch, 128, h, w]`.
    pub target: Tensor,
    /// Weight of each sample, `[batch]`.
    pub weight: Tensor,
    /// The batch's mask at the latents' shape.
    pub mask: Option<Tensor>,
    /// What drew σ; see [`Sigmas::method`].
    pub sampling_method: &'static str,
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

/// Noise levels, noise, target, weights and loss. Source: NeMo Automodel `flow_matching/pipeline.py`.
///
/// ```
/// use flowtune_flow::{FlowMatching, FlowMatchingOptions};
///
/// # fn main() -> flowtune_flow::Result<()> {
/// let flow = FlowMatching::new(FlowMatchingOptions::default(), None);
/// // 64 samples of step 3 of the run with seed 7, for images of 1024 tokens (512² pixels).
/// let sigmas = flow.sample_timesteps((7, 3, 0), 64, 1024)?;
/// assert!(sigmas.sigma.as_slice::<f32>()?.iter().all(|sigma| (0.0..=1.0).contains(sigma)));
/// # Ok(()) }
/// ```
#[derive(Debug, Clone)]
pub struct FlowMatching {
    /// Options.
    pub options: FlowMatchingOptions,
    /// What stands in for a dropped caption, `[tokens, dim]`; zeros when none.
    pub empty_prompt: Option<Tensor>,
    table: Vec<f32>,
}

impl FlowMatching {
    /// See the fields.
    pub fn new(options: FlowMatchingOptions, empty_prompt: Option<Tensor>) -> Self {
        Self { options, empty_prompt, table: bsmntw_table() }
    }

    /// Noise levels of samples `first..first + batch` of a step for images of `tokens` tokens.
    ///
    /// # Errors
    /// `RECIPE_INVALID` for parameters of no Beta distribution.
    pub fn sample_timesteps(&self, key: Key, batch: usize, tokens: usize) -> Result<Sigmas> {
        sample_sigmas(&self.sigma_options(tokens), self.options.mix_uniform_ratio, key, batch)
    }

    /// The uniform (0..1) and standard normal draws that [`FlowMatching::sample_timesteps`] uses, `[batch]` each.
    pub fn draws(&self, key: Key, batch: usize) -> (Vec<f32>, Vec<f32>) {
        draws(key, batch)
    }

    /// Noise levels from given draws, one of each per sample.
    ///
    /// # Errors
    /// `RECIPE_INVALID` under `beta`, which has draws of its own, and for lists of different lengths.
    pub fn sigmas_of(&self, uniform: &[f32], normal: &[f32], tokens: usize) -> Result<Sigmas> {
        sigmas_of(&self.sigma_options(tokens), uniform, normal)
    }

    /// Weight of each sample by its noise level: sigma `[batch]` → `[batch]`.
    ///
    /// # Errors
    /// `SHAPE_MISMATCH` when sigma is not float32.
    pub fn loss_weights(&self, sigma: &Tensor, tokens: usize) -> Result<Tensor> {
        let shift = self.options.flow_shift.factor(tokens) as f32;
        let weigh = |&s: &f32| self.options.loss_weighting.weight(s, shift, &self.table);
        let weights: Vec<f32> = sigma.as_slice::<f32>()?.iter().map(weigh).collect();
        Ok(Tensor::from_vec(weights, sigma.shape())?)
    }

    /// Draws noise levels and noise, and forms x_t, target, weights and context.
    ///
    /// # Errors
    /// `SHAPE_MISMATCH` naming the tensor that does not fit; `RECIPE_INVALID` for a σ outside of 0..1.
    pub fn prepare(&self, batch: &Batch, key: Key, given: Given) -> Result<PreparedStep> {
        let mask = check(batch, &given)?;
        let latents = &batch.image_latents;
        let (samples, tokens) = (latents.dim(0), latents.dim(2) * latents.dim(3));
        let sigmas = match given.sigma {
            Some(sigma) => Sigmas::new(sigma.to_f32_vec()?, "given")?,
            None => self.sample_timesteps(key, samples, tokens)?,
        };
        let noise = match given.noise {
            Some(noise) => noise,
            None => normal_batch(key.0, key.1, key.2, Purpose::Noise, latents.shape())?,
        };
        let weight = match given.weight {
            Some(weight) => weight,
            None => self.loss_weights(&sigmas.sigma, tokens)?,
        };
        let context = FlowMatchingContext {
            noisy_latents: interpolate(latents, &noise, &sigmas.sigma)?,
            latents: latents.clone(),
            timesteps: sigmas.timesteps,
            sigma: sigmas.sigma,
            task_type: "t2i",
            data_type: "image",
            cfg_dropout_prob: self.options.cfg_dropout_prob,
            drop_caption: given.drop_caption.unwrap_or_else(|| self.drop_captions(key, samples)),
            empty_prompt: self.empty_prompt.clone(),
            batch: batch.clone(),
        };
        let target = sub(&noise, latents)?;
        Ok(PreparedStep { context, noise, target, weight, mask, sampling_method: sigmas.method })
    }

    /// The loss of a prediction `[batch, 128, h, w]`. `elements` is an adapter's own loss per element, of the
    /// prediction's shape; squared errors when none. `auxiliary` scalars are added.
    ///
    /// # Errors
    /// `SHAPE_MISMATCH`; with `check_loss`, `LOSS_DIVERGED` when the loss is not finite or above `max_loss`.
    pub fn loss(
        &self,
        tape: &Tape,
        step: &PreparedStep,
        prediction: &Var,
        elements: Option<Var>,
        auxiliary: Vec<(String, Var)>,
        check_loss: bool,
    ) -> Result<StepOutput> {
        let WeightedLoss { mut loss, unweighted } = main_loss(tape, step, prediction, elements)?;
        let mut named = Vec::with_capacity(auxiliary.len());
        for (name, value) in auxiliary {
            let number = value.tensor().to_scalar().map_err(|_| not_a_scalar(&name, value.tensor()))?;
            named.push((name, number));
            // A scalar of any rank: `[1]` is one too.
            loss = tape.add(&loss, &tape.reshape(&value, &[])?)?;
        }
        let total = loss.tensor().to_scalar()?;
        // Not finite, or too large: NaN is not at most anything.
        if check_loss && !(total.is_finite() && total <= self.options.max_loss) {
            return Err(Error::LossDiverged { loss: total, limit: self.options.max_loss });
        }
        let metrics = metrics(total, unweighted, step, named)?;
        Ok(StepOutput { loss, prediction: prediction.clone(), metrics })
    }

    fn sigma_options(&self, tokens: usize) -> SigmaOptions {
        let o = &self.options;
        SigmaOptions {
            sampling: o.timestep_sampling,
            logit_mean: o.logit_mean,
            logit_std: o.logit_std,
            beta: [o.beta_alpha, o.beta_beta],
            shift: o.flow_shift.factor(tokens),
            sigma_min: o.sigma_min,
            sigma_max: o.sigma_max,
            use_sigma_noise: o.use_sigma_noise,
        }
    }

    fn drop_captions(&self, (seed, step, first): Key, samples: usize) -> Vec<bool> {
        let draw = |i: u64| stream(seed, step, first + i, Purpose::CaptionDropout).random::<f64>();
        (0..samples as u64).map(|i| draw(i) < self.options.cfg_dropout_prob).collect()
    }
}

fn not_a_scalar(name: &str, got: &Tensor) -> Error {
    let (expected, got) = (format!("[] (`{name}` is one number)"), got.shape().to_vec());
    EngineError::Shape { op: "step", argument: "auxiliary loss", expected, got }.into()
}

fn main_loss(tape: &Tape, step: &PreparedStep, prediction: &Var, elements: Option<Var>) -> Result<WeightedLoss> {
    let shape = step.target.shape();
    let own = elements.as_ref().map(|elements| ("loss of compute_loss", elements));
    for (argument, value) in [("prediction", prediction)].into_iter().chain(own) {
        if value.tensor().shape() != shape {
            let (expected, got) = (format!("{shape:?}"), value.tensor().shape().to_vec());
            return Err(EngineError::Shape { op: "step", argument, expected, got }.into());
        }
    }
    Ok(match elements {
        Some(elements) => tape.weighted_mean(&elements, &step.weight, step.mask.as_ref())?,
        None => tape.weighted_mse(prediction, &step.target, &step.weight, step.mask.as_ref())?,
    })
}
