//! Loss weights by noise level.

use serde::{Deserialize, Serialize};

/// Number of entries of the bell-shaped table.
pub const TABLE_STEPS: usize = 1000;

/// `loss_weighting_scheme`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LossWeighting {
    /// 1.
    #[default]
    None,
    /// 1 + shift·σ.
    Linear,
    /// A bell around σ = 0.5 (the name is Automodel's).
    Bsmntw,
}

impl LossWeighting {
    /// Weight of a sample at noise level `sigma` in 0..1 when noise levels are shifted by `shift`.
    pub fn weight(self, sigma: f32, shift: f32, table: &[f32]) -> f32 {
        match self {
            Self::None => 1.0,
            Self::Linear => 1.0 + shift * sigma,
            Self::Bsmntw => table[((sigma * TABLE_STEPS as f32) as usize).min(TABLE_STEPS - 1)],
        }
    }
}

/// exp(−2((t − T/2)/T)²) over t = 0..T−1, minus its minimum, scaled to sum T; `[1000]`.
pub fn bsmntw_table() -> Vec<f32> {
    let steps = TABLE_STEPS as f64;
    let bell = |t: usize| (-2.0 * ((t as f64 - steps / 2.0) / steps).powi(2)).exp();
    let y: Vec<f64> = (0..TABLE_STEPS).map(bell).collect();
    let least = y.iter().copied().fold(f64::INFINITY, f64::min);
    let total: f64 = y.iter().map(|y| y - least).sum();
    y.iter().map(|y| ((y - least) * steps / total) as f32).collect()
}
