//! Sinusoidal embedding of timesteps and guidance.

use crate::error::Result;
use crate::tensor::Tensor;

/// Entries of the 128 frequencies that PyTorch's vectorised `exp` rounds away from the nearest float, and by how
/// many units in the last place. Times a timestep of 1000 one unit is 3e-5 rad, which AdamW turns into a different
/// step for weights whose gradient nearly vanishes: docs/decisions/0003-timestep-frequencies.md.
const TORCH_ROUNDING: [(usize, i32); 2] = [(12, 1), (106, 1)];

/// Channels of FLUX.2's embedding, for which [`TORCH_ROUNDING`] was read off.
const FLUX2_CHANNELS: usize = 256;

/// `[batch]` → `[batch, channels]`: cos(t·f) then sin(t·f), f = 10000^(−i/(channels/2)).
/// diffusers `get_timestep_embedding(flip_sin_to_cos=True, downscale_freq_shift=0)`, in float32 as there.
///
/// # Errors
/// When t is not floating.
pub fn timestep_embedding(t: &Tensor, channels: usize) -> Result<Tensor> {
    let table = frequencies(channels);
    let steps = t.to_f32_vec()?;
    let mut out = Vec::with_capacity(steps.len() * channels);
    for &t in &steps {
        out.extend(table.iter().map(|f| (t * f).cos()));
        out.extend(table.iter().map(|f| (t * f).sin()));
    }
    Tensor::new(out, &[steps.len(), channels]).to_dtype(t.dtype())?.to_device(&t.device())
}

/// The exponents are formed in float32, as the reference does; exp is rounded to the nearest float.
fn frequencies(channels: usize) -> Vec<f32> {
    let half = channels / 2;
    let exponent = |i: usize| -(10_000f32.ln()) * i as f32 / half as f32;
    let mut table: Vec<f32> = (0..half).map(|i| f64::from(exponent(i)).exp() as f32).collect();
    if channels == FLUX2_CHANNELS {
        for (i, units) in TORCH_ROUNDING {
            table[i] = f32::from_bits(table[i].to_bits().wrapping_add_signed(units));
        }
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frequencies_fall_from_one_to_nearly_one_ten_thousandth() {
        let table = frequencies(FLUX2_CHANNELS);
        assert_eq!((table[0], table[12].to_bits()), (1.0, 0.421_696_5_f32.to_bits()));
        assert!(table.windows(2).all(|w| w[0] > w[1]) && (table[127] - 1.0746e-4).abs() < 1e-7);
    }

    #[test]
    fn cosines_come_first() {
        let e = timestep_embedding(&Tensor::new(vec![0f32, 500.0], &[2]), 4).unwrap();
        let e = e.as_slice::<f32>().unwrap();
        assert_eq!(e[..4], [1.0, 1.0, 0.0, 0.0]);
        assert!((e[4] - 500f32.cos()).abs() < 1e-6 && (e[7] - 5f32.sin()).abs() < 1e-6);
    }
}
