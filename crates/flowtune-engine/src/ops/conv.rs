//! Two-dimensional convolution, forward only, as products with unfolded tiles of the image.

use crate::cpu::gemm::{Multiply, gemm};
use crate::cpu::mat::{Mat, MatMut, Threads, Write};
use crate::cpu::parallel;
use crate::dtype::{Real, with_real};
use crate::error::{Result, shape_error};
use crate::tensor::Tensor;

/// Elements of the unfolded tile: it bounds the scratch memory, whatever the size of the image, unless a single
/// output row needs more.
const TILE: usize = 1 << 20;

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

/// Cross-correlation, as `torch.nn.functional.conv2d`: x `[batch, in, height, width]`, weight
/// `[out, in, kernel_height, kernel_width]`, bias `[out]` → `[batch, out, out_height, out_width]` with
/// out_height = (height + top + bottom − kernel_height) / stride + 1.
///
/// # Errors
/// `SHAPE_MISMATCH` when the extents do not fit.
pub fn conv2d(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>, stride: usize, padding: Padding) -> Result<Tensor> {
    let d = Dims::of(x, weight, bias, stride, padding)?;
    with_real!(x.dtype(), "conv2d", T => {
        let mut y = match bias {
            Some(bias) => spread_bias(bias.as_slice::<T>()?, d),
            None => vec![T::zero(); d.batch * d.outputs * d.area()],
        };
        let kernel = Mat::new(weight.as_slice::<T>()?, d.outputs, d.unfolded());
        let x = x.as_slice::<T>()?;
        for (x, y) in x.chunks_exact(d.inputs * d.height * d.width).zip(y.chunks_exact_mut(d.outputs * d.area())) {
            one_image(x, kernel, y, d);
        }
        Ok(Tensor::new(y, &[d.batch, d.outputs, d.out_height, d.out_width]))
    })
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
        self.inputs * self.kernel[0] * self.kernel[1]
    }

    /// Whether an output pixel depends on the input pixel of the same place only.
    fn is_pointwise(self) -> bool {
        self.kernel == [1, 1] && self.stride == 1 && self.padding == Padding::default()
    }
}

fn spread_bias<T: Real + Multiply>(bias: &[T], d: Dims) -> Vec<T> {
    parallel::fill(
        d.batch * d.outputs,
        d.area(),
        #[inline(always)]
        |i, y| y.fill(bias[i % d.outputs]),
    )
}

/// y `[out, area]` += kernel `[out, unfolded]` · unfolded x `[unfolded, area]`, some output rows at a time.
fn one_image<T: Real + Multiply>(x: &[T], kernel: Mat<T>, y: &mut [T], d: Dims) {
    if d.is_pointwise() {
        let x = Mat::new(x, d.inputs, d.area());
        gemm(MatMut::new(y, d.area()), Write::Add, T::one(), kernel, x, Threads::All);
        return;
    }
    let rows = (TILE / (d.unfolded() * d.out_width).max(1)).clamp(1, d.out_height);
    let mut tile = vec![T::zero(); d.unfolded() * rows * d.out_width];
    for start in (0..d.out_height).step_by(rows) {
        let rows = rows.min(d.out_height - start);
        let pixels = rows * d.out_width;
        let tile = &mut tile[..d.unfolded() * pixels];
        parallel::rows(
            tile,
            pixels,
            #[inline(always)]
            |i, out| unfold(x, i, start, out, d),
        );
        let y = MatMut::strided(&mut y[start * d.out_width..], d.outputs, pixels, d.area());
        gemm(y, Write::Add, T::one(), kernel, Mat::new(tile, d.unfolded(), pixels), Threads::All);
    }
}

/// Row `at` of the unfolded image: what kernel element (channel, dy, dx) sees from each output pixel, from
/// output row `start` on.
fn unfold<T: Real + Multiply>(x: &[T], at: usize, start: usize, out: &mut [T], d: Dims) {
    let [kh, kw] = d.kernel;
    let (channel, dy, dx) = (at / (kh * kw), at / kw % kh, at % kw);
    let plane = &x[channel * d.height * d.width..][..d.height * d.width];
    for (row, out) in out.chunks_exact_mut(d.out_width).enumerate() {
        let y = ((start + row) * d.stride + dy).checked_sub(d.padding.top).filter(|&y| y < d.height);
        match y {
            Some(y) => unfold_row(&plane[y * d.width..][..d.width], dx, out, d),
            None => out.fill(T::zero()),
        }
    }
}

fn unfold_row<T: Real + Multiply>(line: &[T], dx: usize, out: &mut [T], d: Dims) {
    // Output columns whose source lies inside the image: left ≤ column·stride + dx < left + width.
    let left = d.padding.left;
    let first = left.saturating_sub(dx).div_ceil(d.stride).min(d.out_width);
    let end = (left + d.width).saturating_sub(dx).div_ceil(d.stride).clamp(first, d.out_width);
    out[..first].fill(T::zero());
    out[end..].fill(T::zero());
    if first == end {
        return;
    }
    let source = &line[first * d.stride + dx - left..];
    match d.stride {
        1 => out[first..end].copy_from_slice(&source[..end - first]),
        stride => out[first..end].iter_mut().zip(source.iter().step_by(stride)).for_each(|(o, &s)| *o = s),
    }
}

#[cfg(test)]
mod tests {
    use super::{Padding, conv2d};
    use crate::tensor::Tensor;

    fn noise(shape: &[usize], seed: f64) -> Tensor {
        let n = shape.iter().product::<usize>();
        Tensor::from_vec((0..n).map(|i| (i as f64 * 12.9898 + seed).sin()).collect(), shape).unwrap()
    }

    fn candle(t: &Tensor) -> candle_core::Tensor {
        candle_core::Tensor::from_slice(t.as_slice::<f64>().unwrap(), t.shape(), &candle_core::Device::Cpu).unwrap()
    }

    /// Against candle's conv2d of the image that was padded first.
    fn check(x: [usize; 4], w: [usize; 4], stride: usize, p: Padding) {
        let (x, w, bias) = (noise(&x, 0.1), noise(&w, 0.7), noise(&[w[0]], 0.3));
        let got = conv2d(&x, &w, Some(&bias), stride, p).unwrap();
        let padded = candle(&x).pad_with_zeros(2, p.top, p.bottom).unwrap();
        let padded = padded.pad_with_zeros(3, p.left, p.right).unwrap().contiguous().unwrap();
        let want = padded.conv2d(&candle(&w), 0, stride, 1, 1).unwrap();
        let want = want.broadcast_add(&candle(&bias).reshape((1, bias.len(), 1, 1)).unwrap()).unwrap();
        assert_eq!(got.shape(), want.dims());
        let want = want.flatten_all().unwrap().to_vec1::<f64>().unwrap();
        for (i, (got, want)) in got.as_slice::<f64>().unwrap().iter().zip(want).enumerate() {
            assert!((got - want).abs() <= 1e-10, "element {i}: {got}, candle {want}");
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
    fn equals_candle_when_the_image_takes_several_tiles() {
        // 64·9 inputs per pixel and 70·40 pixels unfold to 1.6 million elements.
        check([1, 64, 70, 40], [3, 64, 3, 3], 1, Padding::all(1));
    }

    #[test]
    fn wrong_extents_are_refused() {
        let (x, w) = (noise(&[1, 3, 4, 4], 0.0), noise(&[2, 4, 3, 3], 0.0));
        assert_eq!(conv2d(&x, &w, None, 1, Padding::all(1)).unwrap_err().code(), "SHAPE_MISMATCH");
        let w = noise(&[2, 3, 5, 5], 0.0);
        assert_eq!(conv2d(&x, &w, None, 1, Padding::default()).unwrap_err().code(), "SHAPE_MISMATCH");
        assert_eq!(conv2d(&x, &w, Some(&x), 1, Padding::all(1)).unwrap_err().code(), "SHAPE_MISMATCH");
    }
}
