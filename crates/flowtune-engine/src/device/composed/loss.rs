//! Interpolation and weighted errors; shapes as [`crate::Tape::weighted_mse`].

use candle_core::{DType, Result, Tensor};

/// (1 − σ)·x₀ + σ·ε.
pub(crate) fn interpolate(latents: &Tensor, noise: &Tensor, sigma: &Tensor) -> Result<Tensor> {
    let sigma = per_sample(sigma, latents)?;
    latents.broadcast_mul(&(1.0 - &sigma)?)? + noise.broadcast_mul(&sigma)?
}

/// Σ of the elements of each sample, those of the mask, as numbers of the host.
pub(crate) fn weighted_sum(elements: &Tensor, mask: Option<&Tensor>) -> Result<Vec<f64>> {
    let elements = match mask {
        Some(mask) => (elements * mask)?,
        None => elements.clone(),
    };
    let samples = elements.dim(0)?;
    elements.reshape((samples, ()))?.to_dtype(DType::F64)?.sum(1)?.to_vec1()
}

/// Σ of the squared errors of each sample, as [`weighted_sum`].
pub(crate) fn weighted_squares(prediction: &Tensor, target: &Tensor, mask: Option<&Tensor>) -> Result<Vec<f64>> {
    weighted_sum(&(prediction - target)?.sqr()?, mask)
}

/// factor·weight at every element, masked.
pub(crate) fn weighted_sum_gradient(
    elements: &Tensor,
    weight: &Tensor,
    mask: Option<&Tensor>,
    factor: f64,
) -> Result<Tensor> {
    let weight = per_sample(&(weight * factor)?, elements)?.broadcast_as(elements.shape())?;
    match mask {
        Some(mask) => weight * mask,
        None => weight.contiguous(),
    }
}

/// factor·weight·(prediction − target), masked.
pub(crate) fn weighted_squares_gradient(
    prediction: &Tensor,
    target: &Tensor,
    weight: &Tensor,
    mask: Option<&Tensor>,
    factor: f64,
) -> Result<Tensor> {
    let error = (prediction - target)?.broadcast_mul(&per_sample(&(weight * factor)?, prediction)?)?;
    match mask {
        Some(mask) => error * mask,
        None => Ok(error),
    }
}

/// A number for each sample, `[batch, 1, ..]`.
fn per_sample(x: &Tensor, like: &Tensor) -> Result<Tensor> {
    let mut shape = vec![1; like.rank()];
    shape[0] = like.dim(0)?;
    x.reshape(shape)
}
