//! Sinusoidal embedding of timesteps and guidance.

use crate::error::Result;
use crate::tensor::Tensor;

/// `[batch]` → `[batch, channels]`: cos(t·f) then sin(t·f), f = 10000^(−i/(channels/2)).
/// diffusers `get_timestep_embedding(flip_sin_to_cos=True, downscale_freq_shift=0)`.
///
/// # Errors
/// When t is not floating.
pub fn timestep_embedding(t: &Tensor, channels: usize) -> Result<Tensor> {
    let half = channels / 2;
    // The reference forms frequencies and angles in float32; timesteps go up to 1000, so rounding shows.
    let frequency = |i: usize| (-(10_000f32.ln()) * i as f32 / half as f32).exp();
    let table: Vec<f32> = (0..half).map(frequency).collect();
    let steps = t.to_f32_vec()?;
    let mut out = Vec::with_capacity(steps.len() * channels);
    for &t in &steps {
        out.extend(table.iter().map(|f| (t * f).cos()));
        out.extend(table.iter().map(|f| (t * f).sin()));
    }
    let embedding = Tensor::new(out, &[steps.len(), channels]);
    embedding.to_dtype(t.dtype())
}
