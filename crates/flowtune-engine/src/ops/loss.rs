//! Interpolation between image and noise, and the weighted squared error.

use crate::cpu::{lanes, parallel};
use crate::dtype::{Real, with_real};
use crate::error::{Result, shape_error};
use crate::tape::{Tape, Var};
use crate::tensor::Tensor;

/// x_t = (1 − σ)·x₀ + σ·ε: latents and noise `[batch, ..]`, sigma `[batch]`.
///
/// # Errors
/// `SHAPE_MISMATCH` when the extents do not fit.
pub fn interpolate(latents: &Tensor, noise: &Tensor, sigma: &Tensor) -> Result<Tensor> {
    if noise.shape() != latents.shape() {
        return Err(shape_error("interpolate", "noise", format!("{:?}", latents.shape()), noise.shape()));
    }
    if sigma.shape() != [latents.dim(0)] {
        return Err(shape_error("interpolate", "sigma", format!("[{}]", latents.dim(0)), sigma.shape()));
    }
    with_real!(latents.dtype(), "interpolate", T => {
        let (x, e, s) = (latents.as_slice::<T>()?, noise.as_slice::<T>()?, sigma.as_slice::<T>()?);
        let row = x.len() / s.len().max(1);
        let out = parallel::fill(s.len(), row, |i, out| {
            let (x, e, s) = (&x[i * row..][..row], &e[i * row..][..row], s[i]);
            for j in 0..row {
                out[j] = (T::one() - s) * x[j] + s * e[j];
            }
        });
        Ok(Tensor::new(out, latents.shape()))
    })
}

/// What [`Tape::weighted_mse`] computes.
#[derive(Debug)]
pub struct WeightedMse {
    /// Mean of weight·(prediction − target)² over the unmasked elements; a scalar.
    pub loss: Var,
    /// The same with all weights 1.
    pub unweighted: f64,
}

impl Tape {
    /// Mean squared error with a weight per sample and an optional mask: prediction and target `[batch, ..]`,
    /// weight `[batch]`, mask of the target's shape (0 leaves an element out; the mean is over what remains).
    ///
    /// # Errors
    /// `SHAPE_MISMATCH` when the extents do not fit or the mask leaves nothing.
    pub fn weighted_mse(
        &self,
        prediction: &Var,
        target: &Tensor,
        weight: &Tensor,
        mask: Option<&Tensor>,
    ) -> Result<WeightedMse> {
        let shape = prediction.tensor().shape();
        for (name, t) in [("target", Some(target)), ("mask", mask)] {
            if let Some(t) = t.filter(|t| t.shape() != shape) {
                return Err(shape_error("weighted_mse", name, format!("{shape:?}"), t.shape()));
            }
        }
        if weight.shape() != [prediction.tensor().dim(0)] {
            return Err(shape_error("weighted_mse", "weight", format!("[{}]", shape[0]), weight.shape()));
        }
        with_real!(prediction.tensor().dtype(), "weighted_mse", T => {
            self.mse::<T>(prediction, target, weight, mask)
        })
    }

    fn mse<T: Real>(
        &self,
        prediction: &Var,
        target: &Tensor,
        weight: &Tensor,
        mask: Option<&Tensor>,
    ) -> Result<WeightedMse> {
        let (p, t, w) = (prediction.tensor().as_slice::<T>()?, target.as_slice::<T>()?, weight.as_slice::<T>()?);
        let row = p.len() / w.len().max(1);
        let m = mask.map(Tensor::as_slice::<T>).transpose()?;
        let counted = m.map_or(p.len() as f64, |m| m.iter().map(|&m| to_f64(m)).sum());
        if counted <= 0.0 {
            return Err(shape_error("weighted_mse", "mask", "with at least one element kept", target.shape()));
        }
        let per_sample: Vec<f64> = (0..w.len())
            .map(|b| {
                let range = b * row..(b + 1) * row;
                let (p, t) = (&p[range.clone()], &t[range.clone()]);
                let square = |a: T, b: T| (a - b) * (a - b);
                to_f64(match m {
                    None => lanes::sum_by2(p, t, square),
                    Some(m) => p.iter().zip(t).zip(&m[range]).map(|((&a, &b), &m)| m * square(a, b)).sum(),
                })
            })
            .collect();
        let unweighted = per_sample.iter().sum::<f64>() / counted;
        let loss = per_sample.iter().zip(w).map(|(s, &w)| s * to_f64(w)).sum::<f64>() / counted;
        let (ps, ts, ws, ms) = (prediction.tensor().clone(), target.clone(), weight.clone(), mask.cloned());
        let loss = self.record(&[prediction], Tensor::new(vec![T::of(loss)], &[]), |_| {
            move |g: Tensor| {
                let factor = g.to_scalar()? * 2.0 / counted;
                Ok(vec![Some(mse_gradient::<T>(&ps, &ts, &ws, ms.as_ref(), factor)?)])
            }
        });
        Ok(WeightedMse { loss, unweighted })
    }
}

fn to_f64<T: Real>(x: T) -> f64 {
    candle_core::WithDType::to_f64(x)
}

fn mse_gradient<T: Real>(
    prediction: &Tensor,
    target: &Tensor,
    weight: &Tensor,
    mask: Option<&Tensor>,
    factor: f64,
) -> Result<Tensor> {
    let (p, t, w) = (prediction.as_slice::<T>()?, target.as_slice::<T>()?, weight.as_slice::<T>()?);
    let m = mask.map(Tensor::as_slice::<T>).transpose()?;
    let row = p.len() / w.len().max(1);
    let out = parallel::fill(w.len(), row, |b, out| {
        let (p, t) = (&p[b * row..][..row], &t[b * row..][..row]);
        let factor = T::of(factor) * w[b];
        for j in 0..row {
            out[j] = factor * (p[j] - t[j]);
        }
        if let Some(m) = m {
            out.iter_mut().zip(&m[b * row..][..row]).for_each(|(o, &m)| *o *= m);
        }
    });
    Ok(Tensor::new(out, prediction.shape()))
}
