//! 4-bit NormalFloat (QLoRA, arXiv:2305.14314): the sixteen values that hold equally many of normally distributed numbers,
//! times a scale for each 64 of them. Codes and scales are those of bitsandbytes' `quantize_4bit`, without its second
//! quantisation of the scales.

use std::ops::Range;

use super::{Block, Side};
use crate::cpu::memory;
use crate::cpu::parallel;
use crate::cpu::product::Made;
use crate::cpu::simd::vectorised;
use crate::dtype::{Real, Stored};

/// Elements that share a scale, counted through the rows.
pub const NF4_BLOCK: usize = 64;

/// The values of nf4 (arXiv:2305.14314, appendix E).
pub const NF4: [f32; 16] = [
    -1.0,
    -0.696_192_8,
    -0.525_073_05,
    -0.394_917_5,
    -0.284_441_38,
    -0.184_773_43,
    -0.091_050_036,
    0.0,
    0.079_580_3,
    0.160_930_2,
    0.246_112_3,
    0.337_915_24,
    0.440_709_83,
    0.562_617,
    0.722_956_84,
    1.0,
];

/// A matrix `[rows, cols]` whose element i is `NF4[code i]` · `scales[i / 64]`; two codes in a byte, the first in the high
/// half.
pub(crate) struct Nf4 {
    pub(crate) codes: Vec<u8>,
    pub(crate) scales: Vec<f32>,
    pub(crate) rows: usize,
    pub(crate) cols: usize,
}

impl Nf4 {
    /// Rounds a matrix; the largest element of each block becomes ±1 times its scale.
    pub(crate) fn quantised<T: Stored<Compute = f32>>(x: &[T], cols: usize) -> Self {
        let largest = |block: &[T]| block.iter().fold(0f32, |most, x| most.max(x.load().abs()));
        let scales = parallel::fill(x.len().div_ceil(NF4_BLOCK), 1, |block, out: &mut [f32]| {
            let from = &x[block * NF4_BLOCK..];
            out[0] = largest(&from[..NF4_BLOCK.min(from.len())]);
        });
        let mut codes = memory::unfilled::<u8>(x.len().div_ceil(2));
        parallel::rows(
            &mut codes,
            NF4_BLOCK / 2,
            #[inline(always)]
            |block, out| {
                let inverse = if scales[block] > 0.0 { scales[block].recip() } else { 0.0 };
                let from = &x[block * NF4_BLOCK..];
                let code = |i: usize| from.get(i).map_or(0, |x| nearest(x.load() * inverse));
                for (byte, out) in out.iter_mut().enumerate() {
                    *out = code(2 * byte) << 4 | code(2 * byte + 1);
                }
            },
        );
        Self { codes, scales, rows: x.len() / cols.max(1), cols }
    }

    /// The matrix in float32.
    pub(crate) fn dequantised(&self) -> Vec<f32> {
        let mut out = memory::unfilled(self.rows * self.cols);
        parallel::rows(&mut out, NF4_BLOCK, |block, out| self.write(block * NF4_BLOCK, out, 1, |x| x));
        out
    }

    /// A block of the matrix, or its transpose, as the right one of a product.
    pub(crate) fn block(&self, block: &Block, side: Side) -> Nf4Block<'_> {
        Nf4Block { weight: self, block: block.clone(), side }
    }

    /// Writes elements from `start` on, `step` apart, until `out` is full.
    #[inline(always)]
    fn write<T: Copy>(&self, start: usize, out: &mut [T], step: usize, store: impl Fn(f32) -> T) {
        let (mut i, end) = (start, start + out.len().div_ceil(step));
        while i < end {
            let block = i / NF4_BLOCK;
            let values = NF4.map(|value| store(value * self.scales[block]));
            let stop = ((block + 1) * NF4_BLOCK).min(end);
            for i in i..stop {
                let code = self.codes[i / 2] >> (4 * (1 - i % 2)) & 15;
                out[(i - start) * step] = values[usize::from(code)];
            }
            i = stop;
        }
    }
}

/// The index of the value of [`NF4`] nearest to x.
#[inline(always)]
fn nearest(x: f32) -> u8 {
    NF4.windows(2).map(|pair| u8::from(x > 0.5 * (pair[0] + pair[1]))).sum()
}

/// A block of a weight as the right matrix of a product: `[in, out]` for the forward, `[out, in]` for the gradient of the input. Its
/// numbers exist only in the panels that the product packs.
pub(crate) struct Nf4Block<'a> {
    weight: &'a Nf4,
    block: Block,
    side: Side,
}

impl<T: Stored> Made<T> for Nf4Block<'_> {
    fn extents(&self) -> (usize, usize) {
        let Block { outputs, inputs } = &self.block;
        match self.side {
            Side::Forward => (inputs.len(), outputs.len()),
            Side::InputGradient => (outputs.len(), inputs.len()),
        }
    }

    fn write(&self, k: Range<usize>, cols: Range<usize>, out: &mut [T], stride: usize) {
        if k.is_empty() || cols.is_empty() {
            return;
        }
        let store = |x: f32| T::store(T::Compute::of(f64::from(x)));
        let Block { outputs, inputs } = &self.block;
        let at = |row: usize, col: usize| (outputs.start + row) * self.weight.cols + inputs.start + col;
        vectorised(
            #[inline(always)]
            || match self.side {
                Side::Forward => {
                    let len = (k.len() - 1) * stride + 1;
                    for (j, row) in cols.clone().enumerate() {
                        self.weight.write(at(row, k.start), &mut out[j..][..len], stride, store);
                    }
                }
                Side::InputGradient => {
                    for (i, row) in k.clone().enumerate() {
                        self.weight.write(at(row, cols.start), &mut out[i * stride..][..cols.len()], 1, store);
                    }
                }
            },
        );
    }
}

#[cfg(test)]
mod tests {
    use half::bf16;

    use super::*;
    use crate::cpu::gemm::Multiply;
    use crate::cpu::mat::{Mat, MatMut, Threads, Write};
    use crate::cpu::product::{Right, Term};

    fn numbers(len: usize, step: usize) -> Vec<f32> {
        (0..len).map(|i| ((i * step % 101) as f32 - 50.0) * 0.013 * (1 + i / 90) as f32).collect()
    }

    #[test]
    fn each_element_is_the_nearest_value_of_its_block() {
        // Blocks go through the rows, and the last one is short.
        let x = numbers(7 * 31, 37);
        let back = Nf4::quantised(&x, 31).dequantised();
        for (i, (x, back)) in x.iter().zip(&back).enumerate() {
            let block = i / NF4_BLOCK * NF4_BLOCK;
            let scale = numbers(7 * 31, 37)[block..].iter().take(NF4_BLOCK).fold(0f32, |m, x| m.max(x.abs()));
            let off = NF4.iter().map(|value| (x - value * scale).abs()).fold(f32::MAX, f32::min);
            assert!((x - back).abs() <= off + 1e-6 * scale, "{i}: {x} became {back}");
        }
        let zeros = Nf4::quantised(&[0f32; 65], 65);
        assert!(zeros.dequantised().iter().all(|&x| x == 0.0));
    }

    #[test]
    fn codes_and_scales_are_those_of_bitsandbytes() {
        // `quantize_4bit(x, quant_type="nf4", blocksize=64)` of bitsandbytes 0.50.2 with PyTorch 2.15, on the CPU.
        const CODES: [&str; 3] = [
            "04c16e29f3b05d17e29f3c05d18e2af4c16e18e3b05d17e29f3b05d18e2af4c1",
            "6b48c5926a37b48c5926a37b48f4c06d18e2a04c16e29f3b05d17e29f3c05d18",
            "d49e5b26c38d4a15b27c39d4a16c27d39e5b26c38d4a15b27c38f3b05d17e2af",
        ];
        const SCALES: [f32; 3] = [0.650_000_04, 1.300_000_1, 1.872];
        let got = Nf4::quantised(&numbers(192, 37), 48);
        let hex: String = got.codes.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!((hex, &got.scales[..]), (CODES.concat(), &SCALES[..]));
    }

    /// Products with a block of a weight against those of the numbers that the codes stand for.
    fn products_agree<T: Multiply>([all_outputs, all_inputs]: [usize; 2], block: &Block) {
        let rows = 5;
        let weight = Nf4::quantised(&numbers(all_outputs * all_inputs, 37), all_inputs);
        let (outputs, inputs) = (block.outputs.len(), block.inputs.len());
        let w: Vec<T> = weight.dequantised().into_iter().map(|x| T::store(T::Compute::of(f64::from(x)))).collect();
        for side in [Side::Forward, Side::InputGradient] {
            let forward = matches!(side, Side::Forward);
            let (k, n) = if forward { (inputs, outputs) } else { (outputs, inputs) };
            let x: Vec<T> = numbers(rows * k, 53).into_iter().map(|x| T::store(T::Compute::of(f64::from(x)))).collect();
            let a = Mat::new(&x, rows, k);
            let mat = Mat::new(&w, all_outputs, all_inputs)
                .slice_rows(block.outputs.start, outputs)
                .slice_cols(&block.inputs);
            let multiply = |b: Right<T>| {
                let mut c = vec![T::Compute::of(9.0); rows * n];
                let one = T::Compute::of(1.0);
                T::multiply(MatMut::new(&mut c, n), Write::Set, one, &[Term { a, b }], Threads::All);
                c
            };
            let (made, want) = (weight.block(block, side), multiply(if forward { mat.t() } else { mat }.into()));
            for (i, (got, want)) in multiply(Right::Made(&made)).into_iter().zip(want).enumerate() {
                let (got, want) = (candle_core::WithDType::to_f64(got), candle_core::WithDType::to_f64(want));
                assert!(
                    (got - want).abs() <= 1e-6 * want.abs().max(1.0),
                    "{outputs} x {inputs}, {i}: {got} for {want}"
                );
            }
        }
    }

    #[test]
    fn products_are_those_of_what_the_codes_stand_for() {
        let block = |outputs: Range<usize>, inputs: Range<usize>| Block { outputs, inputs };
        let whole = [[37, 70], [1, 1], [130, 192]].map(|of| (of, block(0..of[0], 0..of[1])));
        for (of, block) in whole.into_iter().chain([([37, 70], block(5..30, 17..60))]) {
            products_agree::<f32>(of, &block);
            products_agree::<bf16>(of, &block);
            products_agree::<f64>(of, &block);
        }
    }
}
