//! Shifting noise levels towards 1, constantly or with the number of image tokens.

use serde::{Deserialize, Serialize};

/// σ = s / (s + 1/max(u, 1e-5) − 1).
pub fn shifted(u: f32, shift: f32) -> f32 {
    shift / (shift + (1.0 / u.max(1e-5) - 1.0))
}

/// μ on the line through (256 tokens, 0.5) and (4096 tokens, 1.15), as BFL trained FLUX.2; tokens = h·w of
/// the 128-channel latent.
pub fn dynamic_mu(tokens: usize) -> f64 {
    0.5 + (1.15 - 0.5) * (tokens as f64 - 256.0) / (4096.0 - 256.0)
}

/// How far noise levels are shifted.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum FlowShift {
    /// The same for every resolution.
    Constant(f64),
    /// `"dynamic"`: e^μ with [`dynamic_mu`].
    Dynamic(Dynamic),
}

/// The word `dynamic`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Dynamic {
    /// `"dynamic"`
    Dynamic,
}

impl FlowShift {
    /// The resolution-dependent shift.
    pub const DYNAMIC: Self = Self::Dynamic(Dynamic::Dynamic);

    /// The factor s for an image of `tokens` tokens.
    pub fn factor(self, tokens: usize) -> f64 {
        match self {
            Self::Constant(shift) => shift,
            Self::Dynamic(_) => dynamic_mu(tokens).exp(),
        }
    }
}

/// Kind of [`time_shift`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TimeShift {
    /// e^μ with μ = 0.5 + 0.65·tokens/4096.
    Linear,
    /// max(1, 3·√(tokens/128²)).
    Sqrt,
    /// 3.
    Constant,
}

/// NeMo Automodel's `time_shift(t, image_seq_len, shift_type)`; t in 0..1.
pub fn time_shift(t: f32, tokens: usize, kind: TimeShift) -> f32 {
    let shift = match kind {
        TimeShift::Linear => (0.5 + 0.65 * tokens as f64 / 4096.0).exp(),
        TimeShift::Sqrt => (3.0 * (tokens as f64 / (128.0 * 128.0)).sqrt()).max(1.0),
        TimeShift::Constant => 3.0,
    };
    shift as f32 / (shift as f32 + (1.0 / t - 1.0))
}
