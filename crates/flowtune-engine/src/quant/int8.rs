//! Matrices in int8 with a scale for each row.

use std::borrow::Cow;
use std::ops::Range;

use super::{Block, Side};
use crate::cpu::lanes;
use crate::cpu::mat::{Mat, MatMut, Threads};
use crate::cpu::memory;
use crate::cpu::parallel;
use crate::cpu::product::{Int8, Kind, Term, product_and_rest};
use crate::cpu::simd::vectorised;
use crate::dtype::Stored;

/// A matrix `[rows, cols]` whose element (i, j) is `scales[i]` · `data[i·cols + j]`.
pub(crate) struct Int8Rows {
    pub(crate) data: Vec<i8>,
    pub(crate) scales: Vec<f32>,
    /// Σⱼ of the integers of each row, and Σᵢ of each column: what an unsigned left matrix, which is 128 too large, has to
    /// take back.
    pub(crate) row_sums: Vec<i32>,
    pub(crate) column_sums: Vec<i32>,
}

/// Largest integer: −128 is not used, so that a row and its negative are equally exact.
const LARGEST: f32 = 127.0;

impl Int8Rows {
    /// Rounds a matrix to int8; each row's largest element becomes ±127.
    pub(crate) fn quantised<T: Stored<Compute = f32>>(x: &[T], cols: usize) -> Self {
        let scales: Vec<f32> = x.chunks_exact(cols.max(1)).map(|row| largest(row, None) / LARGEST).collect();
        let mut data = memory::unfilled::<i8>(x.len());
        parallel::rows(
            &mut data,
            cols,
            #[inline(always)]
            |i, out| {
                let inverse = inverse(scales[i]);
                out.iter_mut().zip(&x[i * cols..]).for_each(|(out, x)| *out = integer(x.load() * inverse));
            },
        );
        Self::new(data, scales, cols)
    }

    /// Of integers and scales; the sums are made here.
    pub(crate) fn new(data: Vec<i8>, scales: Vec<f32>, cols: usize) -> Self {
        let row_sums = data.chunks_exact(cols.max(1)).map(|row| row.iter().map(|&q| i32::from(q)).sum()).collect();
        let column_sums = column_sums(Mat::new(&data, scales.len(), cols), 0..scales.len());
        Self { data, scales, row_sums, column_sums }
    }

    /// The matrix in float32.
    pub(crate) fn dequantised(&self) -> Vec<f32> {
        let cols = self.column_sums.len();
        parallel::fill(self.scales.len(), cols, |i, out: &mut [f32]| {
            let (row, scale) = (&self.data[i * cols..][..cols], self.scales[i]);
            out.iter_mut().zip(row).for_each(|(out, &q)| *out = f32::from(q) * scale);
        })
    }
}

impl Int8Rows {
    /// Rounds matrices that lie side by side before products with some outputs and inputs each. For the input gradient the
    /// scales of W, which lie along what is summed over, are multiplied into them first.
    pub(crate) fn rounded<T: Stored<Compute = f32>>(&self, xs: &[Mat<T>], blocks: &[Block], side: Side) -> Bytes {
        let factors = |block: &Block| match side {
            Side::Forward => None,
            Side::InputGradient => Some(&self.scales[block.outputs.clone()]),
        };
        let xs: Vec<_> = xs.iter().zip(blocks).map(|(&x, block)| (x, factors(block))).collect();
        Bytes::quantised(&xs)
    }

    /// Σᵢ of these rows of the integers, by column.
    fn column_sums_of(&self, blocks: &[Block], inputs: &Range<usize>) -> Cow<'_, [i32]> {
        if blocks.iter().map(|block| block.outputs.len()).sum::<usize>() == self.scales.len() {
            return Cow::Borrowed(&self.column_sums[inputs.clone()]);
        }
        let data = Mat::new(&self.data, self.scales.len(), self.column_sums.len()).slice_cols(inputs);
        Cow::Owned(column_sums(data, blocks.iter().flat_map(|block| block.outputs.clone())))
    }
}

/// Σᵢ of some rows, by column.
fn column_sums(data: Mat<i8>, rows: impl Iterator<Item = usize>) -> Vec<i32> {
    let mut sums = vec![0i32; data.cols()];
    for i in rows {
        vectorised(
            #[inline(always)]
            || sums.iter_mut().zip(data.row(i)).for_each(|(sum, &q)| *sum += i32::from(q)),
        );
    }
    sums
}

/// Σ x·Wᵀ or Σ x·W over blocks of W, which columns of x meet one after the other.
pub(crate) struct Int8Product<'a> {
    pub(crate) weight: &'a Int8Rows,
    /// Of [`Int8Rows::rounded`].
    pub(crate) x: &'a Bytes,
    /// Those of x.
    pub(crate) rows: Range<usize>,
    /// All inputs of some outputs for the forward, inputs of different outputs for the input gradient.
    pub(crate) blocks: &'a [Block],
    pub(crate) side: Side,
}

impl Int8Product<'_> {
    /// c = the product, plus the terms of `rest`.
    pub(crate) fn and_rest<R: Kind<Sum = f32>, O: Stored<Compute = f32>>(
        &self,
        c: MatMut<O>,
        rest: &[Term<R::Left, R::Right>],
    ) {
        let Self { weight, x, rows, blocks, side } = self;
        let [Block { outputs, inputs }, ..] = blocks else { return };
        let (excess, factors) = match side {
            Side::Forward => {
                assert_eq!(x.cols, weight.column_sums.len());
                (Cow::Borrowed(&weight.row_sums[outputs.clone()]), Some(&weight.scales[outputs.clone()]))
            }
            Side::InputGradient => (weight.column_sums_of(blocks, inputs), None),
        };
        let scales = &x.scales[rows.clone()];
        product_and_rest::<Int8, R, O>(
            c,
            &self.terms(),
            #[inline(always)]
            |i, cols, sums| match factors {
                Some(factors) => settle(sums, &excess[cols.clone()], factors[cols].iter().map(|f| scales[i] * f)),
                None => settle(sums, &excess[cols], std::iter::repeat(scales[i])),
            },
            rest,
            Threads::All,
        );
    }

    fn terms(&self) -> Vec<Term<'_, u8, i8>> {
        let Self { weight, x, rows, blocks, side } = self;
        let x = Mat::new(&x.data, x.scales.len(), x.cols).slice_rows(rows.start, rows.len());
        let data = Mat::new(&weight.data, weight.scales.len(), weight.column_sums.len());
        let mut end = 0;
        let term = |Block { outputs, inputs }: &Block| {
            let w = data.slice_rows(outputs.start, outputs.len()).slice_cols(inputs);
            let b = if matches!(side, Side::Forward) { w.t() } else { w };
            end += b.rows();
            Term { a: x.slice_cols(&(end - b.rows()..end)), b: b.into() }
        };
        blocks.iter().map(term).collect()
    }
}

/// Makes sums of bytes the bits of the f32 that they stand for.
#[inline(always)]
fn settle(sums: &mut [u32], excess: &[i32], scales: impl Iterator<Item = f32>) {
    for ((sum, excess), scale) in sums.iter_mut().zip(excess).zip(scales) {
        *sum = ((*sum as i32 - 128 * excess) as f32 * scale).to_bits();
    }
}

/// Rows of activations as unsigned bytes, 128 larger than the integers that they stand for, and the scale of each row.
pub(crate) struct Bytes {
    data: Vec<u8>,
    cols: usize,
    scales: Vec<f32>,
}

impl Bytes {
    /// Rounds matrices that lie side by side, each times its factors, column by column.
    fn quantised<T: Stored<Compute = f32>>(xs: &[(Mat<T>, Option<&[f32]>)]) -> Self {
        let rows = xs.first().map_or(0, |(x, _)| x.rows());
        let cols = xs.iter().map(|(x, _)| x.cols()).sum::<usize>();
        let mut data = memory::unfilled::<u8>(rows * cols);
        let mut scales = vec![0f32; rows];
        let out = scales.iter_mut().zip(data.chunks_exact_mut(cols.max(1))).collect::<Vec<_>>();
        parallel::items(
            out,
            cols,
            #[inline(always)]
            |i, (scale, out)| {
                // Loops, for what iterators call is not inlined into vector instructions.
                let mut most = 0f32;
                for (x, factors) in xs {
                    most = most.max(largest(x.row(i), *factors));
                }
                *scale = most / LARGEST;
                let (inverse, mut rest) = (inverse(*scale), out);
                for (x, factors) in xs {
                    let (out, after) = rest.split_at_mut(x.cols());
                    round(x.row(i), *factors, inverse, out);
                    rest = after;
                }
            },
        );
        Self { data, cols, scales }
    }
}

/// The bytes of x·factors·inverse.
#[inline(always)]
fn round<T: Stored<Compute = f32>>(x: &[T], factors: Option<&[f32]>, inverse: f32, out: &mut [u8]) {
    let byte = |x: f32| integer(x * inverse) as u8 ^ 0x80;
    match factors {
        None => out.iter_mut().zip(x).for_each(|(out, x)| *out = byte(x.load())),
        Some(factors) => {
            let x = x.iter().zip(factors);
            out.iter_mut().zip(x).for_each(|(out, (x, f))| *out = byte(x.load() * f));
        }
    }
}

/// max |x·factors|.
#[inline(always)]
fn largest<T: Stored<Compute = f32>>(x: &[T], factors: Option<&[f32]>) -> f32 {
    match factors {
        None => lanes::max_by(x, f32::abs),
        Some(factors) => lanes::max_by2(x, factors, |x, f| (x * f).abs()),
    }
}

#[inline(always)]
fn inverse(scale: f32) -> f32 {
    if scale > 0.0 { scale.recip() } else { 0.0 }
}

/// The nearest integer to x, which is within ±127 but for rounding.
#[inline(always)]
fn integer(x: f32) -> i8 {
    const ROUND: f32 = 12_582_912.0; // 1.5·2²³: the integer is in the low bits of the sum
    (x + ROUND).to_bits() as i8
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::product::F32;

    fn numbers(len: usize, step: usize) -> Vec<f32> {
        (0..len).map(|i| ((i * step % 101) as f32 - 50.0) * 0.013 * (1 + i % 7) as f32).collect()
    }

    const OUTPUTS: usize = 37;
    const INPUTS: usize = 70;
    const ROWS: usize = 5;

    /// A product of rows 1 to 4 with `blocks`, and with something added, against that of what the integers stand for.
    fn products_agree(blocks: &[Block], side: Side) {
        let weight = Int8Rows::quantised(&numbers(OUTPUTS * INPUTS, 37), INPUTS);
        let w = weight.dequantised();
        let forward = matches!(side, Side::Forward);
        let extents = |Block { outputs, inputs }: &Block| {
            if forward { (inputs.len(), outputs.len()) } else { (outputs.len(), inputs.len()) }
        };
        let xs: Vec<_> = blocks.iter().enumerate().map(|(b, block)| numbers(ROWS * extents(block).0, 53 + b)).collect();
        let mats: Vec<_> = xs.iter().zip(blocks).map(|(x, block)| Mat::new(x, ROWS, extents(block).0)).collect();
        let x = weight.rounded(&mats, blocks, side);
        let n = extents(&blocks[0]).1;
        let product = Int8Product { weight: &weight, x: &x, rows: 1..ROWS, blocks, side };
        let (mut alone, mut with) = (vec![9f32; (ROWS - 1) * n], vec![9f32; (ROWS - 1) * n]);
        product.and_rest::<F32, _>(MatMut::new(&mut alone, n), &[]);
        let (a, b) = ([0.5, -1.0, 2.0, 0.25], numbers(n, 11));
        let rest = Term { a: Mat::new(&a, ROWS - 1, 1), b: Mat::new(&b, 1, n).into() };
        product.and_rest::<F32, _>(MatMut::new(&mut with, n), &[rest]);
        for at in 0..(ROWS - 1) * n {
            let (i, col) = (1 + at / n, at % n);
            let (mut want, mut size, mut column) = (0.0, 0.0, 0);
            for block in blocks {
                for j in 0..extents(block).0 {
                    let (output, input) = if forward {
                        (block.outputs.start + col, block.inputs.start + j)
                    } else {
                        (block.outputs.start + j, block.inputs.start + col)
                    };
                    let byte = (f64::from(x.data[i * x.cols + column]) - 128.0) * f64::from(x.scales[i]);
                    // The input gradient is rounded after the scales of W are multiplied into it.
                    let seen = if forward { byte } else { byte / f64::from(weight.scales[output]) };
                    let p = seen * f64::from(w[output * INPUTS + input]);
                    (want, size, column) = (want + p, size + p.abs(), column + 1);
                }
            }
            assert!((f64::from(alone[at]) - want).abs() < 1e-5 * size, "{at}: {} for {want}", alone[at]);
            let added = f64::from(a[i - 1] * b[col]);
            assert!((f64::from(with[at]) - added - want).abs() < 1e-5 * (size + 1.0), "{at}: {} for {want}", with[at]);
        }
    }

    #[test]
    fn products_are_those_of_what_the_integers_stand_for() {
        let block = |outputs: Range<usize>, inputs: Range<usize>| Block { outputs, inputs };
        for side in [Side::Forward, Side::InputGradient] {
            products_agree(&[block(0..OUTPUTS, 0..INPUTS)], side);
        }
        // Some outputs of inputs that come in two parts; some inputs, from gradients of outputs in two parts, and of fewer.
        products_agree(&[block(3..20, 0..30), block(3..20, 30..INPUTS)], Side::Forward);
        products_agree(&[block(0..9, 8..50), block(9..OUTPUTS, 8..50)], Side::InputGradient);
        products_agree(&[block(4..9, 8..50), block(12..30, 8..50)], Side::InputGradient);
    }

    #[test]
    fn bytes_are_within_half_a_step() {
        let (x, y, factors) = (numbers(3 * 100, 37), numbers(3 * 20, 53), numbers(100, 11));
        let bytes = Bytes::quantised(&[(Mat::new(&x, 3, 100), Some(&factors[..])), (Mat::new(&y, 3, 20), None)]);
        for i in 0..3 {
            for j in 0..120 {
                let want = if j < 100 { x[i * 100 + j] * factors[j] } else { y[i * 20 + j - 100] };
                let back = (f32::from(bytes.data[i * 120 + j]) - 128.0) * bytes.scales[i];
                assert!((want - back).abs() <= 0.5001 * bytes.scales[i], "{i} {j}: {want} became {back}");
            }
            assert!(bytes.data[i * 120..][..120].iter().any(|&byte| byte == 255 || byte == 1));
        }
    }

    #[test]
    fn quantising_is_off_by_half_a_step_at_most() {
        let x: Vec<f32> = (0..300).map(|i| ((i * 37 % 101) as f32 - 50.0) * 0.013 * (1 + i / 100) as f32).collect();
        let q = Int8Rows::quantised(&x, 100);
        for (i, (x, back)) in x.iter().zip(q.dequantised()).enumerate() {
            assert!((x - back).abs() <= 0.5001 * q.scales[i / 100], "{i}: {x} became {back}");
        }
        assert_eq!(q.row_sums[1], q.data[100..200].iter().map(|&q| i32::from(q)).sum::<i32>());
        assert_eq!(q.column_sums[7], i32::from(q.data[7]) + i32::from(q.data[107]) + i32::from(q.data[207]));
        assert_eq!(Int8Rows::quantised(&[0f32; 4], 2).dequantised(), [0.0; 4]);
    }
}
