//! Options of the training step.

use serde::{Deserialize, Serialize};

use crate::shift::FlowShift;
use crate::timesteps::TimestepSampling;
use crate::weighting::LossWeighting;

/// Options of [`crate::FlowMatching`]; the defaults are Automodel's.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct FlowMatchingOptions {
    /// Density of the noise levels.
    pub timestep_sampling: TimestepSampling,
    /// Mean of the normal under `logit_normal`.
    pub logit_mean: f64,
    /// Standard deviation of the normal under `logit_normal`.
    pub logit_std: f64,
    /// First parameter of the Beta distribution under `beta`.
    pub beta_alpha: f64,
    /// Second parameter of the Beta distribution under `beta`.
    pub beta_beta: f64,
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
            beta_alpha: 2.5,
            beta_beta: 1.5,
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
