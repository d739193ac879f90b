//! Group normalisation of images, forward only.

use crate::cpu::{lanes, parallel};
use crate::device::{self, composed};
use crate::dtype::{Real, with_real};
use crate::error::{Result, shape_error};
use crate::ops::elementwise::sigmoid;
use crate::tensor::Tensor;

/// Elements that are summed in the tensor's own type before they join a sum in `f64`: a group of the VAE has
/// millions, which is too many for one `f32`.
const CHUNK: usize = 4096;

/// (x − mean) / √(variance + eps) · weight + bias with the moments of each sample's `groups` runs of adjacent
/// channels: x `[batch, channels, ..]`, weight and bias `[channels]`.
///
/// # Errors
/// `SHAPE_MISMATCH` when the extents do not fit or `groups` does not divide the channels.
pub fn group_norm(x: &Tensor, weight: &Tensor, bias: &Tensor, groups: usize, eps: f64) -> Result<Tensor> {
    normalised(x, weight, bias, groups, eps, false)
}

/// silu of [`group_norm`].
///
/// # Errors
/// As there.
pub fn group_norm_silu(x: &Tensor, weight: &Tensor, bias: &Tensor, groups: usize, eps: f64) -> Result<Tensor> {
    normalised(x, weight, bias, groups, eps, true)
}

fn normalised(x: &Tensor, weight: &Tensor, bias: &Tensor, groups: usize, eps: f64, with_silu: bool) -> Result<Tensor> {
    let &[_, channels, ..] = x.shape() else {
        return Err(shape_error("group_norm", "x", "[batch, channels, ..]", x.shape()));
    };
    if groups == 0 || !channels.is_multiple_of(groups) {
        return Err(shape_error("group_norm", "x", format!("[batch, {groups}·n, ..]"), x.shape()));
    }
    for (name, v) in [("weight", weight), ("bias", bias)] {
        if v.shape() != [channels] {
            return Err(shape_error("group_norm", name, format!("[{channels}]"), v.shape()));
        }
    }
    if let Some((on, [x, weight, bias])) = device::operands("group_norm", [x, weight, bias])? {
        return device::made(on, composed::group_norm(&x, &weight, &bias, groups, eps, with_silu));
    }
    let pixels: usize = x.shape()[2..].iter().product();
    with_real!(x.dtype(), "group_norm", T => {
        let (xs, w, b) = (x.as_slice::<T>()?, weight.as_slice::<T>()?, bias.as_slice::<T>()?);
        let per_group = channels / groups;
        let size = per_group * pixels;
        let out = parallel::fill(x.dim(0) * groups, size, #[inline(always)] |i, out| {
            let x = &xs[i * size..][..size];
            let (mean, rstd) = moments(x, eps);
            let first = i % groups * per_group;
            for (c, (out, x)) in out.chunks_mut(pixels).zip(x.chunks(pixels)).enumerate() {
                let scale = w[first + c] * rstd;
                let shift = b[first + c] - mean * scale;
                match with_silu {
                    true => out.iter_mut().zip(x).for_each(|(out, &x)| *out = silu_of(x * scale + shift)),
                    false => out.iter_mut().zip(x).for_each(|(out, &x)| *out = x * scale + shift),
                }
            }
        });
        Ok(Tensor::new(out, x.shape()))
    })
}

#[inline(always)]
fn silu_of<T: Real>(x: T) -> T {
    x * sigmoid(x)
}

/// Mean and 1/√(variance + eps).
#[inline(always)]
fn moments<T: Real>(x: &[T], eps: f64) -> (T, T) {
    let n = x.len().max(1) as f64;
    let mean = x.chunks(CHUNK).map(|c| to_f64(lanes::sum(c))).sum::<f64>() / n;
    let center = T::of(mean);
    let square = |v: T| (v - center) * (v - center);
    let variance = x.chunks(CHUNK).map(|c| to_f64(lanes::sum_by(c, square))).sum::<f64>() / n;
    (center, T::of((variance + eps).sqrt().recip()))
}

fn to_f64<T: Real>(x: T) -> f64 {
    <T as candle_core::WithDType>::to_f64(x)
}

#[cfg(test)]
mod tests {
    use super::{group_norm, group_norm_silu};
    use crate::tensor::Tensor;
    use candle_core::{Device, Tensor as Candle};
    use candle_nn::Module;

    #[test]
    fn equals_candle() {
        let (shape, groups, eps) = ([2, 6, 5, 4], 3, 1e-6);
        let data: Vec<f64> = (0..240).map(|i| (f64::from(i) * 0.37).sin() * 3.0 + 1.0).collect();
        let weight: Vec<f64> = (0..6).map(|i| 0.5 + f64::from(i)).collect();
        let bias: Vec<f64> = (0..6).map(|i| f64::from(i) - 2.0).collect();
        let of = |v: &[f64], s: &[usize]| Tensor::from_vec(v.to_vec(), s).unwrap();
        let (x, w, b) = (of(&data, &shape), of(&weight, &[6]), of(&bias, &[6]));
        let got = group_norm(&x, &w, &b, groups, eps).unwrap();
        let got_silu = group_norm_silu(&x, &w, &b, groups, eps).unwrap();
        let of = |v: &[f64], s: &[usize]| Candle::from_slice(v, s, &Device::Cpu).unwrap();
        let norm = candle_nn::GroupNorm::new(of(&weight, &[6]), of(&bias, &[6]), 6, groups, eps).unwrap();
        let want = norm.forward(&of(&data, &shape)).unwrap();
        for (got, want) in [(got, want.clone()), (got_silu, want.silu().unwrap())] {
            let want = want.flatten_all().unwrap().to_vec1::<f64>().unwrap();
            for (got, want) in got.as_slice::<f64>().unwrap().iter().zip(want) {
                assert!((got - want).abs() <= 1e-10, "{got}, candle {want}");
            }
        }
    }

    #[test]
    fn a_million_pixels_far_from_zero_keep_their_variance_in_float32() {
        let data: Vec<f32> = (0..1 << 20).map(|i| 100.0 + if i % 2 == 0 { 0.5 } else { -0.5 }).collect();
        let x = Tensor::from_vec(data, &[1, 1, 1 << 10, 1 << 10]).unwrap();
        let (one, zero) = (Tensor::full(1f32, &[1]), Tensor::full(0f32, &[1]));
        let out = group_norm(&x, &one, &zero, 1, 0.0).unwrap();
        assert!(out.as_slice::<f32>().unwrap().iter().all(|v| (v.abs() - 1.0).abs() < 1e-4));
    }

    #[test]
    fn groups_must_divide_channels() {
        let (x, w) = (Tensor::full(0f64, &[1, 6, 2]), Tensor::full(0f64, &[6]));
        assert_eq!(group_norm(&x, &w, &w, 4, 1e-6).unwrap_err().code(), "SHAPE_MISMATCH");
        assert_eq!(group_norm(&x, &w, &x, 3, 1e-6).unwrap_err().code(), "SHAPE_MISMATCH");
    }
}
