//! Interpolation between image and noise, and the weighted squared error.

use crate::cpu::{lanes, parallel};
use crate::device::{self, Device, composed};
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
    if let Some((on, [latents, noise, sigma])) = device::operands("interpolate", [latents, noise, sigma])? {
        return device::made(on, composed::interpolate(&latents, &noise, &sigma));
    }
    with_real!(latents.dtype(), "interpolate", T => {
        let (x, e, s) = (latents.as_slice::<T>()?, noise.as_slice::<T>()?, sigma.as_slice::<T>()?);
        let row = x.len() / s.len().max(1);
        let out = parallel::fill(s.len(), row, #[inline(always)] |i, out| {
            let (x, e, s) = (&x[i * row..][..row], &e[i * row..][..row], s[i]);
            for j in 0..row {
                out[j] = (T::one() - s) * x[j] + s * e[j];
            }
        });
        Ok(Tensor::new(out, latents.shape()))
    })
}

/// What [`Tape::weighted_mse`] and [`Tape::weighted_mean`] compute.
#[derive(Debug)]
pub struct WeightedLoss {
    /// Mean of weight·element over the unmasked elements; a scalar.
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
    ) -> Result<WeightedLoss> {
        let shape = prediction.tensor().shape();
        if target.shape() != shape {
            return Err(shape_error("weighted_mse", "target", format!("{shape:?}"), target.shape()));
        }
        check("weighted_mse", shape, weight, mask)?;
        with_real!(prediction.tensor().dtype(), "weighted_mse", T => {
            self.mse::<T>(prediction, target, weight, mask)
        })
    }

    /// Mean of the elements of a loss with a weight per sample and an optional mask, as [`Tape::weighted_mse`].
    ///
    /// # Errors
    /// `SHAPE_MISMATCH` when the extents do not fit or the mask leaves nothing.
    pub fn weighted_mean(&self, elements: &Var, weight: &Tensor, mask: Option<&Tensor>) -> Result<WeightedLoss> {
        check("weighted_mean", elements.tensor().shape(), weight, mask)?;
        with_real!(elements.tensor().dtype(), "weighted_mean", T => self.mean_of::<T>(elements, weight, mask))
    }

    fn mean_of<T: Real>(&self, elements: &Var, weight: &Tensor, mask: Option<&Tensor>) -> Result<WeightedLoss> {
        let sums = sums::<T>(elements.tensor(), mask)?;
        let (loss, unweighted, counted) = means::<T>(&sums, weight, mask, elements.tensor().len())?;
        let (es, ws, ms) = (elements.tensor().clone(), weight.clone(), mask.cloned());
        let loss = self.record(&[elements], Tensor::new(vec![T::of(loss)], &[]), |_| {
            move |g: Tensor| {
                let factor = g.to_scalar()? / counted;
                Ok(vec![Some(mean_gradient::<T>(&es, &ws, ms.as_ref(), factor)?)])
            }
        });
        Ok(WeightedLoss { loss, unweighted })
    }

    fn mse<T: Real>(
        &self,
        prediction: &Var,
        target: &Tensor,
        weight: &Tensor,
        mask: Option<&Tensor>,
    ) -> Result<WeightedLoss> {
        let sums = squares::<T>(prediction.tensor(), target, mask)?;
        let (loss, unweighted, counted) = means::<T>(&sums, weight, mask, prediction.tensor().len())?;
        let (ps, ts, ws, ms) = (prediction.tensor().clone(), target.clone(), weight.clone(), mask.cloned());
        let loss = self.record(&[prediction], Tensor::new(vec![T::of(loss)], &[]), |_| {
            move |g: Tensor| {
                let factor = g.to_scalar()? * 2.0 / counted;
                Ok(vec![Some(mse_gradient::<T>(&ps, &ts, &ws, ms.as_ref(), factor)?)])
            }
        });
        Ok(WeightedLoss { loss, unweighted })
    }
}

/// The mean of weighted elements and of elements from their sums in each sample, and how many elements count.
fn means<T: Real>(sums: &[f64], weight: &Tensor, mask: Option<&Tensor>, elements: usize) -> Result<(f64, f64, f64)> {
    let counted = counted::<T>(mask, elements)?;
    let weight = weight.to_device(&Device::cpu())?;
    let weighted = sums.iter().zip(weight.as_slice::<T>()?).map(|(sum, &weight)| sum * to_f64(weight));
    Ok((weighted.sum::<f64>() / counted, sums.iter().sum::<f64>() / counted, counted))
}

/// Σ of each sample's elements, those of the mask.
fn sums<T: Real>(elements: &Tensor, mask: Option<&Tensor>) -> Result<Vec<f64>> {
    if let Some((_, [elements])) = device::operands("weighted_mean", [elements])? {
        return Ok(composed::weighted_sum(&elements, device::optional("weighted_mean", mask)?.as_ref())?);
    }
    let (e, m) = (elements.as_slice::<T>()?, mask.map(Tensor::as_slice::<T>).transpose()?);
    let row = e.len() / elements.dim(0).max(1);
    let of_sample = |b: usize| {
        let range = b * row..(b + 1) * row;
        to_f64(match m {
            None => lanes::sum(&e[range]),
            Some(m) => lanes::dot(&e[range.clone()], &m[range]),
        })
    };
    Ok((0..elements.dim(0)).map(of_sample).collect())
}

/// Σ of each sample's squared errors, those of the mask.
fn squares<T: Real>(prediction: &Tensor, target: &Tensor, mask: Option<&Tensor>) -> Result<Vec<f64>> {
    if let Some((_, [prediction, target])) = device::operands("weighted_mse", [prediction, target])? {
        let mask = device::optional("weighted_mse", mask)?;
        return Ok(composed::weighted_squares(&prediction, &target, mask.as_ref())?);
    }
    let (p, t) = (prediction.as_slice::<T>()?, target.as_slice::<T>()?);
    let m = mask.map(Tensor::as_slice::<T>).transpose()?;
    let row = p.len() / prediction.dim(0).max(1);
    let square = |a: T, b: T| (a - b) * (a - b);
    let of_sample = |b: usize| {
        let range = b * row..(b + 1) * row;
        let (p, t) = (&p[range.clone()], &t[range.clone()]);
        to_f64(match m {
            None => lanes::sum_by2(p, t, square),
            Some(m) => p.iter().zip(t).zip(&m[range]).map(|((&a, &b), &m)| m * square(a, b)).sum(),
        })
    };
    Ok((0..prediction.dim(0)).map(of_sample).collect())
}

fn check(op: &'static str, shape: &[usize], weight: &Tensor, mask: Option<&Tensor>) -> Result<()> {
    if let Some(mask) = mask.filter(|mask| mask.shape() != shape) {
        return Err(shape_error(op, "mask", format!("{shape:?}"), mask.shape()));
    }
    let batch = shape.first().copied().unwrap_or(1);
    match weight.shape() == [batch] {
        true => Ok(()),
        false => Err(shape_error(op, "weight", format!("[{batch}]"), weight.shape())),
    }
}

/// Over how many elements the mean is: the sum of the mask.
fn counted<T: Real>(mask: Option<&Tensor>, elements: usize) -> Result<f64> {
    let counted = match mask {
        None => elements as f64,
        Some(mask) => match mask.on_device()? {
            Some(mask) => composed::weighted_sum(&mask.twin, None)?.iter().sum(),
            None => mask.as_slice::<T>()?.iter().map(|&m| to_f64(m)).sum(),
        },
    };
    match counted > 0.0 {
        true => Ok(counted),
        false => Err(shape_error("weighted_mean", "mask", "with at least one element that is not 0", &[elements])),
    }
}

fn to_f64<T: Real>(x: T) -> f64 {
    candle_core::WithDType::to_f64(x)
}

/// factor·weight at every element, masked.
fn mean_gradient<T: Real>(elements: &Tensor, weight: &Tensor, mask: Option<&Tensor>, factor: f64) -> Result<Tensor> {
    if let Some((on, [elements, weight])) = device::operands("weighted_mean", [elements, weight])? {
        let mask = device::optional("weighted_mean", mask)?;
        return device::made(on, composed::weighted_sum_gradient(&elements, &weight, mask.as_ref(), factor));
    }
    let (w, m) = (weight.as_slice::<T>()?, mask.map(Tensor::as_slice::<T>).transpose()?);
    let row = elements.len() / w.len().max(1);
    let out = parallel::fill(
        w.len(),
        row,
        #[inline(always)]
        |b, out| {
            let factor = T::of(factor) * w[b];
            match m {
                None => out.fill(factor),
                Some(m) => out.iter_mut().zip(&m[b * row..][..row]).for_each(|(o, &m)| *o = factor * m),
            }
        },
    );
    Ok(Tensor::new(out, elements.shape()))
}

fn mse_gradient<T: Real>(
    prediction: &Tensor,
    target: &Tensor,
    weight: &Tensor,
    mask: Option<&Tensor>,
    factor: f64,
) -> Result<Tensor> {
    if let Some((on, [prediction, target, weight])) = device::operands("weighted_mse", [prediction, target, weight])? {
        let mask = device::optional("weighted_mse", mask)?;
        let gradient = composed::weighted_squares_gradient(&prediction, &target, &weight, mask.as_ref(), factor);
        return device::made(on, gradient);
    }
    let (p, t, w) = (prediction.as_slice::<T>()?, target.as_slice::<T>()?, weight.as_slice::<T>()?);
    let m = mask.map(Tensor::as_slice::<T>).transpose()?;
    let row = p.len() / w.len().max(1);
    let out = parallel::fill(
        w.len(),
        row,
        #[inline(always)]
        |b, out| {
            let (p, t) = (&p[b * row..][..row], &t[b * row..][..row]);
            let factor = T::of(factor) * w[b];
            for j in 0..row {
                out[j] = factor * (p[j] - t[j]);
            }
            if let Some(m) = m {
                out.iter_mut().zip(&m[b * row..][..row]).for_each(|(o, &m)| *o *= m);
            }
        },
    );
    Ok(Tensor::new(out, prediction.shape()))
}
