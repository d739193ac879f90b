//! Shifting noise levels towards 1, constantly or with the number of image tokens.

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// σ = s / (s + 1/max(u, 1e-5) − 1).
pub fn shifted(u: f32, shift: f32) -> f32 {
    shift / (shift + (1.0 / u.max(1e-5) - 1.0))
}

/// μ on the line through (256 tokens, 0.5) and (4096 tokens, 1.15), as BFL trained FLUX.2; tokens = h·w of
/// the 128-channel latent.
pub fn dynamic_mu(tokens: usize) -> f64 {
    0.5 + (1.15 - 0.5) * (tokens as f64 - 256.0) / (4096.0 - 256.0)
}

/// μ = 0.5 + 0.65·tokens/4096, Automodel's `linear` shift.
pub fn linear_mu(tokens: usize) -> f64 {
    0.5 + 0.65 * tokens as f64 / 4096.0
}

/// max(1, 3·√(tokens/128²)), Automodel's `sqrt` shift.
pub fn sqrt_shift(tokens: usize) -> f64 {
    (3.0 * (tokens as f64 / (128.0 * 128.0)).sqrt()).max(1.0)
}

/// How far noise levels are shifted; written as a word or a number.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub enum FlowShift {
    /// e^μ with [`dynamic_mu`]: as FLUX.2 was trained.
    #[default]
    Dynamic,
    /// e^μ with [`linear_mu`].
    Linear,
    /// [`sqrt_shift`].
    Sqrt,
    /// The same for every resolution; 1 is none.
    Constant(f64),
}

impl FlowShift {
    /// The factor s for an image of `tokens` tokens.
    pub fn factor(self, tokens: usize) -> f64 {
        match self {
            Self::Constant(shift) => shift,
            Self::Dynamic => dynamic_mu(tokens).exp(),
            Self::Linear => linear_mu(tokens).exp(),
            Self::Sqrt => sqrt_shift(tokens),
        }
    }
}

impl Serialize for FlowShift {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Dynamic => serializer.serialize_str("dynamic"),
            Self::Linear => serializer.serialize_str("linear"),
            Self::Sqrt => serializer.serialize_str("sqrt"),
            Self::Constant(shift) => serializer.serialize_f64(*shift),
        }
    }
}

impl<'de> Deserialize<'de> for FlowShift {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged, expecting = "must be a number, \"dynamic\", \"linear\" or \"sqrt\"")]
        enum Written {
            Number(f64),
            Word(Word),
        }
        #[derive(Deserialize)]
        #[serde(rename_all = "lowercase")]
        enum Word {
            Dynamic,
            Linear,
            Sqrt,
        }
        Ok(match Written::deserialize(deserializer)? {
            Written::Number(shift) => Self::Constant(shift),
            Written::Word(Word::Dynamic) => Self::Dynamic,
            Written::Word(Word::Linear) => Self::Linear,
            Written::Word(Word::Sqrt) => Self::Sqrt,
        })
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
///
/// ```
/// use flowtune_flow::shift::{TimeShift, time_shift};
/// assert_eq!(time_shift(0.5, 4096, TimeShift::Constant), 0.75);
/// ```
pub fn time_shift(t: f32, tokens: usize, kind: TimeShift) -> f32 {
    let shift = match kind {
        TimeShift::Linear => FlowShift::Linear,
        TimeShift::Sqrt => FlowShift::Sqrt,
        TimeShift::Constant => FlowShift::Constant(3.0),
    };
    let shift = shift.factor(tokens) as f32;
    shift / (shift + (1.0 / t - 1.0))
}
