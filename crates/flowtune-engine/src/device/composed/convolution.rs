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
    let mut y = in_bands(&padded, weight, stride, MOST_PATCHES)?;
    if let Some(bias) = bias {
        y = y.broadcast_add(&bias.reshape((1, (), 1, 1))?)?;
    }
    match residual {
        Some(residual) => y + residual,
        None => Ok(y),
    }
}

/// Elements of patches that are in memory at once.
const MOST_PATCHES: usize = 1 << 26;

/// A convolution by bands of rows: candle writes the patch of every pixel down, kernel² times the image.
fn in_bands(x: &Tensor, weight: &Tensor, stride: usize, most: usize) -> Result<Tensor> {
    let (batch, channels, height, width) = x.dims4()?;
    let (kernel, across) = (weight.dim(2)?, (width - weight.dim(3)?) / stride + 1);
    let (rows, of_row) = ((height - kernel) / stride + 1, batch * channels * kernel * weight.dim(3)? * across);
    let band = (most / of_row.max(1)).clamp(1, rows);
    if band == rows {
        return x.conv2d(weight, 0, stride, 1, 1);
    }
    let of_band = |start: usize| {
        let count = band.min(rows - start);
        x.narrow(2, start * stride, (count - 1) * stride + kernel)?.contiguous()?.conv2d(weight, 0, stride, 1, 1)
    };
    Tensor::cat(&(0..rows).step_by(band).map(of_band).collect::<Result<Vec<_>>>()?, 2)
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

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    #[test]
    fn bands_are_the_whole() {
        let of = |shape: [usize; 4]| {
            let n: usize = shape.iter().product();
            Tensor::from_iter((0..n).map(|i| (i * 7 % 13) as f64 - 6.0), &Device::Cpu).unwrap().reshape(&shape).unwrap()
        };
        let (x, weight) = (of([2, 3, 9, 6]), of([4, 3, 3, 2]));
        for stride in [1, 2] {
            let whole = x.conv2d(&weight, 0, stride, 1, 1).unwrap();
            // One row, two or three at a time.
            for most in [1, 180, 500] {
                let bands = in_bands(&x, &weight, stride, most).unwrap();
                assert_eq!(bands.dims(), whole.dims());
                let off = (bands - &whole).unwrap().abs().unwrap().max_all().unwrap().to_scalar::<f64>().unwrap();
                assert!(off < 1e-9, "stride {stride}, at most {most}: {off}");
            }
        }
    }
}
