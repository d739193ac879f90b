//! Matrices in int8 with a scale for each row.

use super::Side;
use crate::cpu::mat::{Mat, MatMut, Threads, Write};
use crate::cpu::memory;
use crate::cpu::parallel;
use crate::cpu::product::{Int8, Term, sums};
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
        let scales: Vec<f32> = x.chunks_exact(cols.max(1)).map(|row| largest(row) / LARGEST).collect();
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
        let mut column_sums = vec![0i32; cols];
        for row in data.chunks_exact(cols.max(1)) {
            vectorised(
                #[inline(always)]
                || column_sums.iter_mut().zip(row).for_each(|(sum, &q)| *sum += i32::from(q)),
            );
        }
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
    /// c (+)= the product, x rounded to int8 row by row. For the input gradient the scales of W, which lie along what is
    /// summed over, are multiplied into x first.
    pub(crate) fn multiply<T: Stored<Compute = f32>, O: Stored<Compute = f32>>(
        &self,
        c: MatMut<O>,
        write: Write,
        x: Mat<T>,
        side: Side,
    ) {
        let (rows, cols) = (self.scales.len(), self.column_sums.len());
        let weight = Mat::new(&self.data, rows, cols);
        let (k, b, factors, excess) = match side {
            Side::Forward => (cols, weight.t(), Some(&self.scales[..]), &self.row_sums),
            Side::InputGradient => (rows, weight, None, &self.column_sums),
        };
        let bytes = match side {
            Side::Forward => Bytes::quantised(x, None),
            Side::InputGradient => Bytes::quantised(x, Some(&self.scales)),
        };
        let a = Mat::new(&bytes.data, bytes.scales.len(), k);
        assert_eq!((c.rows(), c.cols()), (a.rows(), b.cols()));
        sums::<Int8>(
            &[Term { a, b: b.into() }],
            Threads::All,
            #[inline(always)]
            |i, cols, sums| {
                let scale = bytes.scales[i];
                let exact = sums.iter().zip(&excess[cols.clone()]).map(|(&sum, &excess)| (sum - 128 * excess) as f32);
                // SAFETY: each element of c belongs to one tile.
                let c = unsafe { c.row(i, cols.clone()) };
                match factors {
                    Some(factors) => put(c, write, exact.zip(&factors[cols]).map(|(exact, f)| exact * (scale * f))),
                    None => put(c, write, exact.map(|exact| exact * scale)),
                }
            },
        );
    }
}

/// Writes or adds `values`: without a branch in the loop, so that it becomes vector instructions.
#[inline(always)]
fn put<O: Stored<Compute = f32>>(c: &mut [O], write: Write, values: impl Iterator<Item = f32>) {
    match write {
        Write::Set => c.iter_mut().zip(values).for_each(|(c, value)| *c = O::store(value)),
        Write::Add => c.iter_mut().zip(values).for_each(|(c, value)| *c = O::store(c.load() + value)),
    }
}

/// Rows of activations as unsigned bytes, 128 larger than the integers that they stand for, and the scale of each row.
pub(crate) struct Bytes {
    pub(crate) data: Vec<u8>,
    pub(crate) scales: Vec<f32>,
}

impl Bytes {
    /// Rounds rows of `factors`·x, element by element; without factors, of x.
    pub(crate) fn quantised<T: Stored<Compute = f32>>(x: Mat<T>, factors: Option<&[f32]>) -> Self {
        let (rows, cols) = (x.rows(), x.cols());
        let mut data = memory::unfilled::<u8>(rows * cols);
        let mut scales = vec![0f32; rows];
        let out = scales.iter_mut().zip(data.chunks_exact_mut(cols.max(1))).collect::<Vec<_>>();
        parallel::items(
            out,
            cols,
            #[inline(always)]
            |i, (scale, out)| {
                let row = x.row(i);
                match factors {
                    None => {
                        *scale = largest(row) / LARGEST;
                        let inverse = inverse(*scale);
                        for j in 0..cols {
                            out[j] = integer(row[j].load() * inverse) as u8 ^ 0x80;
                        }
                    }
                    Some(factors) => {
                        let mut max = [0f32; 16];
                        for (x, f) in row.chunks(16).zip(factors.chunks(16)) {
                            for l in 0..x.len() {
                                max[l] = max[l].max((x[l].load() * f[l]).abs());
                            }
                        }
                        *scale = max.into_iter().fold(0.0, f32::max) / LARGEST;
                        let inverse = inverse(*scale);
                        for j in 0..cols {
                            out[j] = integer(row[j].load() * factors[j] * inverse) as u8 ^ 0x80;
                        }
                    }
                }
            },
        );
        Self { data, scales }
    }
}

/// max |x|.
#[inline(always)]
fn largest<T: Stored<Compute = f32>>(x: &[T]) -> f32 {
    let mut max = [0f32; 16];
    for chunk in x.chunks(16) {
        for l in 0..chunk.len() {
            max[l] = max[l].max(chunk[l].load().abs());
        }
    }
    max.into_iter().fold(0.0, f32::max)
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

    #[test]
    fn products_are_those_of_what_the_integers_stand_for() {
        let numbers = |len: usize, step: usize| -> Vec<f32> {
            (0..len).map(|i| ((i * step % 101) as f32 - 50.0) * 0.013 * (1 + i % 7) as f32).collect()
        };
        let (rows, outputs, inputs) = (5, 37, 70);
        let weight = Int8Rows::quantised(&numbers(outputs * inputs, 37), inputs);
        let w = weight.dequantised();
        for side in [Side::Forward, Side::InputGradient] {
            let forward = matches!(side, Side::Forward);
            let (k, n) = if forward { (inputs, outputs) } else { (outputs, inputs) };
            let x = numbers(rows * k, 53);
            // The input gradient is rounded after the scales of W are multiplied into it.
            let bytes = Bytes::quantised(Mat::new(&x, rows, k), (!forward).then_some(&weight.scales[..]));
            let seen = |i: usize, j: usize| {
                let x = (f64::from(bytes.data[i * k + j]) - 128.0) * f64::from(bytes.scales[i]);
                if forward { x } else { x / f64::from(weight.scales[j]) }
            };
            let mut set = vec![9f32; rows * n];
            weight.multiply(MatMut::new(&mut set, n), Write::Set, Mat::new(&x, rows, k), side);
            let mut added = vec![9f32; rows * n];
            weight.multiply(MatMut::new(&mut added, n), Write::Add, Mat::new(&x, rows, k), side);
            for at in 0..rows * n {
                let (i, col) = (at / n, at % n);
                let of_weight = |j: usize| f64::from(w[if forward { col * inputs + j } else { j * inputs + col }]);
                let products = (0..k).map(|j| seen(i, j) * of_weight(j));
                let (want, size) = products.fold((0.0, 0.0), |(sum, size), p: f64| (sum + p, size + p.abs()));
                assert!((f64::from(set[at]) - want).abs() < 1e-5 * size, "{at}: {} for {want}", set[at]);
                assert!((f64::from(added[at]) - 9.0 - want).abs() < 1e-5 * (size + 9.0), "{at}: {}", added[at]);
            }
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
        let factors: Vec<f32> = (0..100).map(|j| 0.5 + j as f32 * 0.01).collect();
        let bytes = Bytes::quantised(Mat::new(&x, 3, 100), Some(&factors));
        for i in 0..300 {
            let back = (f32::from(bytes.data[i]) - 128.0) * bytes.scales[i / 100];
            assert!((x[i] * factors[i % 100] - back).abs() <= 0.5001 * bytes.scales[i / 100]);
        }
        assert_eq!(Int8Rows::quantised(&[0f32; 4], 2).dequantised(), [0.0; 4]);
    }
}
