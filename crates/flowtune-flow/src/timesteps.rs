//! Drawing noise levels.

use flowtune_engine::Tensor;
use rand::Rng;
use rand_distr::{Beta, Distribution, StandardNormal};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::random::{Purpose, stream};
use crate::shift::shifted;

/// `timestep_sampling`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TimestepSampling {
    /// u ~ U(0, 1).
    Uniform,
    /// sigmoid(N(mean, std)).
    #[default]
    LogitNormal,
    /// sigmoid(N(0, 1)).
    Lognorm,
    /// The heavy-tailed density of arXiv:2403.03206, scale 1.29.
    Mode,
    /// As `Lognorm`; meant to be mixed with uniform batches.
    Mix,
    /// σ ~ Beta, without shift.
    Beta,
}

impl TimestepSampling {
    /// Name as recipes write it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Uniform => "uniform",
            Self::LogitNormal => "logit_normal",
            Self::Lognorm => "lognorm",
            Self::Mode => "mode",
            Self::Mix => "mix",
            Self::Beta => "beta",
        }
    }
}

/// How noise levels are drawn.
#[derive(Debug, Clone, Copy)]
pub struct SigmaOptions {
    /// Density of u.
    pub sampling: TimestepSampling,
    /// Mean of the normal under `logit_normal`.
    pub logit_mean: f64,
    /// Standard deviation of the normal under `logit_normal`.
    pub logit_std: f64,
    /// Parameters of the distribution under `beta`.
    pub beta: [f64; 2],
    /// Shift s.
    pub shift: f64,
    /// Least σ.
    pub sigma_min: f64,
    /// Largest σ.
    pub sigma_max: f64,
    /// Whether the density and the shift apply; without, σ ~ U(0, 1).
    pub use_sigma_noise: bool,
}

/// Noise levels of a batch.
#[derive(Debug, Clone)]
pub struct Sigmas {
    /// σ, float32 `[batch]`, in 0..1.
    pub sigma: Tensor,
    /// σ·1000, float32 `[batch]`.
    pub timesteps: Tensor,
    /// What drew them: a name of [`TimestepSampling`] (`uniform` also where a uniform batch was mixed in),
    /// `uniform_no_shift` or `given`.
    pub method: &'static str,
}

impl Sigmas {
    /// From values.
    ///
    /// # Errors
    /// Never.
    pub fn new(sigma: Vec<f32>, method: &'static str) -> Result<Self> {
        let timesteps = sigma.iter().map(|s| s * 1000.0).collect::<Vec<f32>>();
        let batch = [sigma.len()];
        Ok(Self { sigma: Tensor::from_vec(sigma, &batch)?, timesteps: Tensor::from_vec(timesteps, &batch)?, method })
    }
}

/// u in 0..1 from one uniform and one standard normal draw.
pub fn density(o: &SigmaOptions, uniform: f32, normal: f32) -> f32 {
    let sigmoid = |x: f32| 1.0 / (1.0 + (-x).exp());
    match o.sampling {
        TimestepSampling::Uniform | TimestepSampling::Beta => uniform,
        TimestepSampling::LogitNormal => sigmoid(normal * o.logit_std as f32 + o.logit_mean as f32),
        TimestepSampling::Lognorm | TimestepSampling::Mix => sigmoid(normal),
        TimestepSampling::Mode => {
            let cos = (std::f32::consts::FRAC_PI_2 * uniform).cos();
            (1.0 - uniform - 1.29 * (cos * cos - 1.0 + uniform)).clamp(0.0, 1.0)
        }
    }
}

/// σ from one uniform and one standard normal draw: density, shift, clamp.
pub fn sigma_of(o: &SigmaOptions, uniform: f32, normal: f32) -> f32 {
    let sigma = match o.use_sigma_noise {
        true => shifted(density(o, uniform, normal), o.shift as f32),
        false => uniform,
    };
    sigma.clamp(o.sigma_min as f32, o.sigma_max as f32)
}

/// Noise levels of samples `first..first + batch` of a step. With probability `mix_uniform_ratio` the whole
/// batch is uniform instead, except under `beta` and without sigma noise, as in Automodel.
///
/// # Errors
/// `RECIPE_INVALID` for parameters of no Beta distribution.
pub fn sample_sigmas(
    o: &SigmaOptions,
    mix_uniform_ratio: f64,
    (seed, step, first): (u64, u64, u64),
    batch: usize,
) -> Result<Sigmas> {
    if !o.use_sigma_noise || o.sampling != TimestepSampling::Beta {
        let mixed = o.use_sigma_noise && stream(seed, step, first, Purpose::Mix).random::<f64>() < mix_uniform_ratio;
        let options = SigmaOptions { sampling: if mixed { TimestepSampling::Uniform } else { o.sampling }, ..*o };
        let (uniform, normal) = draws((seed, step, first), batch);
        return sigmas_of(&options, &uniform, &normal);
    }
    let [alpha, beta] = o.beta.map(|parameter| parameter as f32);
    let distribution = Beta::new(alpha, beta)
        .map_err(|e| Error::Invalid(format!("betaAlpha and betaBeta must both be positive: {e}")))?;
    let draw = |i: u64| distribution.sample(&mut stream(seed, step, first + i, Purpose::Sigma));
    let clamp = |sigma: f32| sigma.clamp(o.sigma_min as f32, o.sigma_max as f32);
    Sigmas::new((0..batch as u64).map(|i| clamp(draw(i))).collect(), o.sampling.name())
}

/// The uniform (0..1) and standard normal draws of samples `first..first + batch` of a step.
pub fn draws((seed, step, first): (u64, u64, u64), batch: usize) -> (Vec<f32>, Vec<f32>) {
    let draw = |i: u64| -> (f32, f32) {
        let mut rng = stream(seed, step, first + i, Purpose::Sigma);
        (rng.random::<f32>(), StandardNormal.sample(&mut rng))
    };
    (0..batch as u64).map(draw).unzip()
}

/// Noise levels from given draws, one of each per sample.
///
/// # Errors
/// `RECIPE_INVALID` under `beta`, which has draws of its own, and for lists of different lengths.
pub fn sigmas_of(o: &SigmaOptions, uniform: &[f32], normal: &[f32]) -> Result<Sigmas> {
    if o.use_sigma_noise && o.sampling == TimestepSampling::Beta {
        let reason = "timestepSampling beta is not made of a uniform and a normal draw; draw σ with sampleTimesteps";
        return Err(Error::Invalid(reason.to_owned()));
    }
    if uniform.len() != normal.len() {
        let lengths = format!("{} uniform and {} normal draws", uniform.len(), normal.len());
        return Err(Error::Invalid(format!("a sample needs one draw of each, got {lengths}")));
    }
    let sigma = uniform.iter().zip(normal).map(|(&u, &n)| sigma_of(o, u, n)).collect();
    Sigmas::new(sigma, if o.use_sigma_noise { o.sampling.name() } else { "uniform_no_shift" })
}
