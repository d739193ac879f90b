//! Two-dimensional convolution, forward only: a product of the kernel with the unfolded image, which is made a piece at a
//! time where the product packs it and never written down.

use std::ops::Range;

use crate::cpu::gemm::Multiply;
use crate::cpu::mat::{Mat, MatMut, Threads};
use crate::cpu::memory;
use crate::cpu::product::{Made, Right, Term};
use crate::cpu::simd::vectorised;
use crate::device::{self, composed};
use crate::dtype::{Real, with_real};
use crate::error::{Result, shape_error};
use crate::tensor::Tensor;

/// Zeros around an image.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Padding {
    /// Rows above.
    pub top: usize,
    /// Rows below.
    pub bottom: usize,
    /// Columns on the left.
    pub left: usize,
    /// Columns on the right.
    pub right: usize,
}

impl Padding {
    /// The same on every side.
    pub fn all(n: usize) -> Self {
        Self { top: n, bottom: n, left: n, right: n }
    }
}

/// Cross-correlation, as `torch.nn.functional.conv2d`, plus `residual` of the result's shape where there is one:
/// x `[batch, in, height, width]`, weight `[out, in, kernel_height, kernel_width]`, bias `[out]` →
/// `[batch, out, out_height, out_width]` with out_height = (height + top + bottom − kernel_height) / stride + 1.
///
/// # Errors
/// `SHAPE_MISMATCH` when the extents do not fit.
pub fn conv2d(
    x: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    residual: Option<&Tensor>,
    stride: usize,
    padding: Padding,
) -> Result<Tensor> {
    let d = Dims::of(x, weight, bias, stride, padding)?;
    let shape = [d.batch, d.outputs, d.out_height, d.out_width];
    if let Some(residual) = residual.filter(|r| r.shape() != shape) {
        return Err(shape_error("conv2d", "residual", format!("{shape:?}"), residual.shape()));
    }
    if let Some((on, [x, weight])) = device::operands("conv2d", [x, weight])? {
        let (bias, residual) = (device::optional("conv2d", bias)?, device::optional("conv2d", residual)?);
        let around = [padding.top, padding.bottom, padding.left, padding.right];
        return device::made(on, composed::conv2d(&x, &weight, bias.as_ref(), residual.as_ref(), d.stride, around));
    }
    with_real!(x.dtype(), "conv2d", T => {
        let kernel = Mat::new(weight.as_slice::<T>()?, d.outputs, d.unfolded());
        let bias = bias.map(|bias| bias.as_slice::<T>()).transpose()?;
        let residual = residual.map(|residual| residual.as_slice::<T>()).transpose()?;
        let x = x.as_slice::<T>()?;
        let size = d.outputs * d.area();
        let mut y = memory::unfilled(d.batch * size);
        if size > 0 {
            for (i, y) in y.chunks_exact_mut(size).enumerate() {
                let image = &x[i * d.inputs * d.height * d.width..][..d.inputs * d.height * d.width];
                let plus = Plus { bias, residual: residual.map(|r| &r[i * size..][..size]) };
                one_image(image, kernel, plus, y, d);
            }
        }
        Ok(Tensor::new(y, &shape))
    })
}

/// What is added to a convolution of one image.
#[derive(Clone, Copy)]
struct Plus<'a, T> {
    /// `[out]`
    bias: Option<&'a [T]>,
    /// `[out, area]`
    residual: Option<&'a [T]>,
}

#[derive(Clone, Copy)]
struct Dims {
    batch: usize,
    inputs: usize,
    height: usize,
    width: usize,
    outputs: usize,
    kernel: [usize; 2],
    stride: usize,
    padding: Padding,
    out_height: usize,
    out_width: usize,
}

impl Dims {
    fn of(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>, stride: usize, padding: Padding) -> Result<Self> {
        let &[batch, inputs, height, width] = x.shape() else {
            return Err(shape_error("conv2d", "x", "[batch, channels, height, width]", x.shape()));
        };
        let &[outputs, channels, kh, kw] = weight.shape() else {
            return Err(shape_error("conv2d", "weight", "[out, in, height, width]", weight.shape()));
        };
        if channels != inputs || kh * kw == 0 {
            return Err(shape_error("conv2d", "weight", format!("[out, {inputs}, 1.., 1..]"), weight.shape()));
        }
        if let Some(bias) = bias.filter(|b| b.shape() != [outputs]) {
            return Err(shape_error("conv2d", "bias", format!("[{outputs}]"), bias.shape()));
        }
        let padded = [height + padding.top + padding.bottom, width + padding.left + padding.right];
        if padded[0] < kh || padded[1] < kw {
            let expected = format!("at least as large as the kernel, {kh}×{kw}, after padding");
            return Err(shape_error("conv2d", "x", expected, x.shape()));
        }
        let stride = stride.max(1);
        let (out_height, out_width) = ((padded[0] - kh) / stride + 1, (padded[1] - kw) / stride + 1);
        let kernel = [kh, kw];
        Ok(Self { batch, inputs, height, width, outputs, kernel, stride, padding, out_height, out_width })
    }

    /// Pixels of an output channel.
    fn area(self) -> usize {
        self.out_height * self.out_width
    }

    /// Inputs of one output pixel.
    fn unfolded(self) -> usize {
        self.inputs * self.taps()
    }

    /// Whether an output pixel depends on the input pixel of the same place only.
    fn is_pointwise(self) -> bool {
        self.kernel == [1, 1] && self.stride == 1 && self.padding == Padding::default()
    }
}

/// y `[out, area]` = kernel `[out, unfolded]` · unfolded x `[unfolded, area]` + what is added.
fn one_image<T: Real + Multiply<Compute = T>>(x: &[T], kernel: Mat<T>, plus: Plus<T>, y: &mut [T], d: Dims) {
    let area = d.area();
    let y = MatMut::new(y, area);
    let unfolded = Unfolded { x, d };
    let b = if d.is_pointwise() { Right::Mat(Mat::new(x, d.inputs, area)) } else { Right::Made(&unfolded) };
    T::sums(
        &[Term { a: kernel, b }],
        Threads::All,
        #[inline(always)]
        |channel, pixels, sums| {
            // SAFETY: each element comes once.
            let y = unsafe { y.row(channel, pixels.clone()) };
            let bias = plus.bias.map_or(T::zero(), |bias| bias[channel]);
            match plus.residual {
                None => y.iter_mut().zip(sums).for_each(|(y, &sum)| *y = sum + bias),
                Some(residual) => {
                    let residual = &residual[channel * area..][pixels];
                    y.iter_mut().zip(sums).zip(residual).for_each(|((y, &sum), &r)| *y = sum + bias + r);
                }
            }
        },
    );
}

/// An image as the right matrix of a product, `[in · kernel_height · kernel_width, out_height · out_width]`: what each
/// element of the kernel sees from each output pixel. Padding is zero.
struct Unfolded<'a, T> {
    x: &'a [T],
    d: Dims,
}

/// Adjacent output pixels that see adjacent (or strided) input pixels through one element of the kernel.
struct Run {
    /// Of the kernel's element within its channel.
    tap: usize,
    /// First column of the output.
    at: usize,
    /// Columns.
    count: usize,
    /// First pixel within the channel.
    source: usize,
}

impl<T: Real> Made<T> for Unfolded<'_, T> {
    fn extents(&self) -> (usize, usize) {
        (self.d.unfolded(), self.d.area())
    }

    fn write(&self, k: Range<usize>, cols: Range<usize>, out: &mut [T], stride: usize) {
        let taps = self.d.taps();
        let runs = self.d.runs(cols);
        vectorised(
            #[inline(always)]
            || {
                for channel in k.start / taps..k.end.div_ceil(taps) {
                    let plane = &self.x[channel * self.d.height * self.d.width..][..self.d.height * self.d.width];
                    for run in &runs {
                        let row = channel * taps + run.tap;
                        if k.contains(&row) {
                            let out = &mut out[(row - k.start) * stride + run.at..][..run.count];
                            copy_strided(&plane[run.source..], self.d.stride, out);
                        }
                    }
                }
            },
        );
    }
}

/// Every `step`th element of `source` to `out`; mostly a few dozen, for which a call to copy memory takes longer than the
/// copy.
#[inline(always)]
fn copy_strided<T: Copy>(source: &[T], step: usize, out: &mut [T]) {
    let count = out.len();
    match (step, count) {
        (1, 32) => copy_array::<T, 32>(source, out, 0),
        (1, 16..32) => {
            copy_array::<T, 16>(source, out, 0);
            copy_array::<T, 16>(source, out, count - 16);
        }
        (1, _) => out.copy_from_slice(&source[..count]),
        _ => out.iter_mut().zip(source.iter().step_by(step)).for_each(|(out, &x)| *out = x),
    }
}

#[inline(always)]
fn copy_array<T: Copy, const N: usize>(source: &[T], out: &mut [T], at: usize) {
    if let (Some(out), Some(source)) = (out[at..].first_chunk_mut::<N>(), source[at..].first_chunk::<N>()) {
        *out = *source;
    }
}

impl Dims {
    /// Elements of the kernel in one channel.
    fn taps(self) -> usize {
        self.kernel[0] * self.kernel[1]
    }

    /// What output pixels `cols` see of a channel, but for the padding.
    fn runs(self, cols: Range<usize>) -> Vec<Run> {
        let mut runs = Vec::new();
        let mut start = cols.start;
        while start < cols.end {
            let (row, column) = (start / self.out_width, start % self.out_width);
            let columns = column..self.out_width.min(column + cols.end - start);
            for tap in 0..self.taps() {
                let (dy, dx) = (tap / self.kernel[1], tap % self.kernel[1]);
                let y = (row * self.stride + dy).checked_sub(self.padding.top).filter(|&y| y < self.height);
                let inside = self.inside(dx, columns.clone());
                if let (Some(y), false) = (y, inside.is_empty()) {
                    let source = y * self.width + inside.start * self.stride + dx - self.padding.left;
                    runs.push(Run { tap, at: start - cols.start + inside.start - column, count: inside.len(), source });
                }
            }
            start += columns.len();
        }
        runs
    }

    /// Those of the output columns whose source lies inside the image: left ≤ column·stride + dx < left + width.
    fn inside(self, dx: usize, columns: Range<usize>) -> Range<usize> {
        let left = self.padding.left;
        let first = left.saturating_sub(dx).div_ceil(self.stride);
        let end = (left + self.width).saturating_sub(dx).div_ceil(self.stride);
        first.max(columns.start)..end.min(columns.end)
    }
}

#[cfg(test)]
mod tests {
    use super::{Padding, conv2d};
    use crate::dtype::DType;
    use crate::tensor::Tensor;

    fn noise(shape: &[usize], seed: f64) -> Tensor {
        let n = shape.iter().product::<usize>();
        Tensor::from_vec((0..n).map(|i| (i as f64 * 12.9898 + seed).sin()).collect(), shape).unwrap()
    }

    fn candle(t: &Tensor) -> candle_core::Tensor {
        candle_core::Tensor::from_slice(t.as_slice::<f64>().unwrap(), t.shape(), &candle_core::Device::Cpu).unwrap()
    }

    /// Against candle's conv2d of the image that was padded first, in either type.
    fn check(x: [usize; 4], w: [usize; 4], stride: usize, p: Padding) {
        let (x, w, bias) = (noise(&x, 0.1), noise(&w, 0.7), noise(&[w[0]], 0.3));
        let padded = candle(&x).pad_with_zeros(2, p.top, p.bottom).unwrap();
        let padded = padded.pad_with_zeros(3, p.left, p.right).unwrap().contiguous().unwrap();
        let product = padded.conv2d(&candle(&w), 0, stride, 1, 1).unwrap();
        let residual = noise(product.dims(), 0.9);
        let want = product.broadcast_add(&candle(&bias).reshape((1, bias.len(), 1, 1)).unwrap()).unwrap();
        let want = want.add(&candle(&residual)).unwrap();
        near(&conv2d(&x, &w, Some(&bias), Some(&residual), stride, p).unwrap(), &want, 1e-10);
        near(&conv2d(&x, &w, None, None, stride, p).unwrap(), &product, 1e-10);
        let [x, w, bias, residual] = [x, w, bias, residual].map(|t| t.to_dtype(DType::F32).unwrap());
        near(&conv2d(&x, &w, Some(&bias), Some(&residual), stride, p).unwrap(), &want, 1e-4);
    }

    fn near(got: &Tensor, want: &candle_core::Tensor, bound: f64) {
        assert_eq!(got.shape(), want.dims());
        let got = got.to_dtype(DType::F64).unwrap();
        let want = want.flatten_all().unwrap().to_vec1::<f64>().unwrap();
        for (i, (got, want)) in got.as_slice::<f64>().unwrap().iter().zip(want).enumerate() {
            assert!((got - want).abs() <= bound, "element {i}: {got}, candle {want}");
        }
    }

    #[test]
    fn equals_candle_for_the_shapes_of_the_vae() {
        check([2, 3, 7, 5], [4, 3, 3, 3], 1, Padding::all(1));
        check([2, 4, 6, 8], [5, 4, 1, 1], 1, Padding::default());
        let downsample = Padding { bottom: 1, right: 1, ..Padding::default() };
        check([1, 3, 8, 6], [2, 3, 3, 3], 2, downsample);
        check([1, 3, 9, 7], [2, 3, 3, 3], 2, downsample);
    }

    #[test]
    fn equals_candle_for_uneven_padding_strides_and_kernels() {
        check([1, 2, 6, 9], [3, 2, 2, 4], 3, Padding { top: 2, bottom: 0, left: 1, right: 3 });
        check([1, 1, 1, 1], [1, 1, 5, 5], 1, Padding::all(4));
        check([3, 2, 4, 4], [2, 2, 1, 1], 2, Padding::default());
    }

    #[test]
    fn equals_candle_when_the_product_is_made_in_pieces() {
        // 130·9 inputs of a pixel are more than one packed buffer, and 30·40 pixels more than one piece of columns.
        check([1, 130, 30, 40], [13, 130, 3, 3], 1, Padding::all(1));
    }

    #[test]
    fn wrong_extents_are_refused() {
        let (x, w) = (noise(&[1, 3, 4, 4], 0.0), noise(&[2, 4, 3, 3], 0.0));
        assert_eq!(conv2d(&x, &w, None, None, 1, Padding::all(1)).unwrap_err().code(), "SHAPE_MISMATCH");
        let w = noise(&[2, 3, 5, 5], 0.0);
        assert_eq!(conv2d(&x, &w, None, None, 1, Padding::default()).unwrap_err().code(), "SHAPE_MISMATCH");
        assert_eq!(conv2d(&x, &w, Some(&x), None, 1, Padding::all(1)).unwrap_err().code(), "SHAPE_MISMATCH");
        let w = noise(&[2, 3, 3, 3], 0.0);
        assert_eq!(conv2d(&x, &w, None, Some(&x), 1, Padding::all(1)).unwrap_err().code(), "SHAPE_MISMATCH");
    }
}
