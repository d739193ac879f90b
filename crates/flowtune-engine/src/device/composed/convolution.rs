//! What the VAE needs; shapes as [`crate::ops::conv`], [`crate::ops::group_norm`] and [`crate::ops::upsample`].

use candle_core::{Result, Tensor};

use super::norm::normed;
use super::pairs::silu;

/// A convolution after padding by `[top, bottom, left, right]`, plus bias and residual.
pub(crate) fn conv2d(
    x: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    residual: Option<&Tensor>,
    stride: usize,
    [top, bottom, left, right]: [usize; 4],
) -> Result<Tensor> {
    let padded = x.pad_with_zeros(2, top, bottom)?.pad_with_zeros(3, left, right)?;
    let mut y = padded.conv2d(weight, 0, stride, 1, 1)?;
    if let Some(bias) = bias {
        y = y.broadcast_add(&bias.reshape((1, (), 1, 1))?)?;
    }
    match residual {
        Some(residual) => y + residual,
        None => Ok(y),
    }
}

/// Group normalisation, with silu after it or not.
pub(crate) fn group_norm(
    x: &Tensor,
    weight: &Tensor,
    bias: &Tensor,
    groups: usize,
    eps: f64,
    with_silu: bool,
) -> Result<Tensor> {
    let (batch, channels) = (x.dim(0)?, x.dim(1)?);
    let normed = normed(&x.reshape((batch, groups, ()))?, eps)?.0.reshape((batch, channels, ()))?;
    let of_channel = |x: &Tensor| x.reshape((1, channels, 1));
    let y = normed.broadcast_mul(&of_channel(weight)?)?.broadcast_add(&of_channel(bias)?)?.reshape(x.shape())?;
    if with_silu { silu(&y) } else { Ok(y) }
}

/// Every pixel as a square of four.
pub(crate) fn upsample_nearest_2x(x: &Tensor) -> Result<Tensor> {
    let (batch, channels, height, width) = x.dims4()?;
    let pixels = x.reshape((batch, channels, height, 1, width, 1))?;
    pixels.broadcast_as((batch, channels, height, 2, width, 2))?.contiguous()?.reshape((
        batch,
        channels,
        2 * height,
        2 * width,
    ))
}
