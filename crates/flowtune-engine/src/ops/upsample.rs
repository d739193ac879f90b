//! Nearest-neighbour upsampling, forward only.

use crate::cpu::parallel;
use crate::device::{self, composed};
use crate::dtype::{Real, with_real};
use crate::error::{Result, shape_error};
use crate::tensor::Tensor;

/// Each pixel as a 2×2 square: x `[batch, channels, height, width]` → `[batch, channels, 2·height, 2·width]`.
///
/// # Errors
/// `SHAPE_MISMATCH` when x does not have four dimensions.
pub fn upsample_nearest_2x(x: &Tensor) -> Result<Tensor> {
    let &[batch, channels, height, width] = x.shape() else {
        return Err(shape_error("upsample", "x", "[batch, channels, height, width]", x.shape()));
    };
    if let Some((on, [x])) = device::operands("upsample", [x])? {
        return device::made(on, composed::upsample_nearest_2x(&x));
    }
    with_real!(x.dtype(), "upsample", T => {
        let data = double::<T>(x.as_slice::<T>()?, batch * channels * height, width);
        Ok(Tensor::new(data, &[batch, channels, 2 * height, 2 * width]))
    })
}

/// Each of `lines` input lines makes two equal lines of twice the width.
fn double<T: Real>(x: &[T], lines: usize, width: usize) -> Vec<T> {
    parallel::fill(
        lines,
        4 * width,
        #[inline(always)]
        |i, out| {
            let (upper, lower) = out.split_at_mut(2 * width);
            for (pair, &x) in upper.as_chunks_mut::<2>().0.iter_mut().zip(&x[i * width..][..width]) {
                *pair = [x; 2];
            }
            lower.copy_from_slice(upper);
        },
    )
}

#[cfg(test)]
mod tests {
    use super::upsample_nearest_2x;
    use crate::tensor::Tensor;

    #[test]
    fn every_pixel_becomes_a_square() {
        let (batch, channels, height, width) = (2, 3, 4, 5);
        let n = batch * channels * height * width;
        let x = Tensor::from_vec((0..n).map(|i| i as f64).collect(), &[batch, channels, height, width]).unwrap();
        let up = upsample_nearest_2x(&x).unwrap();
        assert_eq!(up.shape(), [batch, channels, 2 * height, 2 * width]);
        let (x, up) = (x.as_slice::<f64>().unwrap(), up.as_slice::<f64>().unwrap());
        for plane in 0..batch * channels {
            for (i, j) in (0..2 * height).flat_map(|i| (0..2 * width).map(move |j| (i, j))) {
                let source = x[(plane * height + i / 2) * width + j / 2];
                assert_eq!(up[(plane * 2 * height + i) * 2 * width + j], source);
            }
        }
        assert_eq!(upsample_nearest_2x(&Tensor::full(0f64, &[2, 2])).unwrap_err().code(), "SHAPE_MISMATCH");
    }
}
