//! LayerNorm with modulation, and RMSNorm; shapes as [`crate::Tape::layer_norm_modulate`].

use candle_core::{D, DType, Result, Tensor};

use super::{compute, wide};

/// (1 + scale)·LayerNorm(x) + shift in `dtype`.
pub(crate) fn layer_norm_modulate(
    x: &Tensor,
    scale: &Tensor,
    shift: &Tensor,
    eps: f64,
    dtype: DType,
) -> Result<Tensor> {
    let (normed, _) = normed(x, eps)?;
    normed.broadcast_mul(&(scale.unsqueeze(1)? + 1.0)?)?.broadcast_add(&shift.unsqueeze(1)?)?.to_dtype(dtype)
}

/// Gradients of x, scale and shift, those that are needed.
pub(crate) fn layer_norm_modulate_backward(
    x: &Tensor,
    scale: &Tensor,
    g: &Tensor,
    eps: f64,
    needs: &[bool],
) -> Result<[Option<Tensor>; 3]> {
    let (normed, rstd) = normed(x, eps)?;
    let g = g.to_dtype(x.dtype())?;
    let input = || {
        let u = g.broadcast_mul(&(scale.unsqueeze(1)? + 1.0)?)?;
        let along = (&u * &normed)?.mean_keepdim(D::Minus1)?;
        let rest = u.broadcast_sub(&u.mean_keepdim(D::Minus1)?)?.sub(&normed.broadcast_mul(&along)?)?;
        rest.broadcast_mul(&rstd)
    };
    Ok([
        needs[0].then(input).transpose()?,
        needs[1].then(|| (&g * &normed)?.sum(1)).transpose()?,
        needs[2].then(|| g.sum(1)).transpose()?,
    ])
}

/// (x − mean)/√(variance + eps) over the last dimension, and 1/√(variance + eps).
pub(super) fn normed(x: &Tensor, eps: f64) -> Result<(Tensor, Tensor)> {
    let centred = x.broadcast_sub(&x.mean_keepdim(D::Minus1)?)?;
    let rstd = (centred.sqr()?.mean_keepdim(D::Minus1)? + eps)?.sqrt()?.recip()?;
    Ok((centred.broadcast_mul(&rstd)?, rstd))
}

/// x / √(mean(x²) + eps) · weight.
pub(crate) fn rms_norm(x: &Tensor, weight: &Tensor, eps: f64) -> Result<Tensor> {
    let normed = rms_normed(&wide(x)?, eps)?.0;
    normed.broadcast_mul(&weight.to_dtype(compute(x.dtype()))?)?.to_dtype(x.dtype())
}

/// x·r and r = 1/√(mean(x²) + eps).
pub(super) fn rms_normed(x: &Tensor, eps: f64) -> Result<(Tensor, Tensor)> {
    let r = (x.sqr()?.mean_keepdim(D::Minus1)? + eps)?.sqrt()?.recip()?;
    Ok((x.broadcast_mul(&r)?, r))
}
