//! Products of matrices in f32, bf16 and int8: one driver, one packing, a kernel for each kind of processor.
//!
//! The left matrix (activations) is read where it lies; only the right one (weights, mostly) is packed, a piece at a time
//! into a buffer that stays in cache. Sums are f32 (i32 for int8) in registers over all of k and leave them once, so a
//! product may have several terms — a weight and its low-rank addition — at no cost. The order of summation does not
//! depend on the threads.

mod driver;
mod kernel;
mod left;
mod pack;
mod right;

use std::ops::Range;
use std::sync::LazyLock;

use half::bf16;

use crate::cpu::mat::{Mat, MatMut, Threads, Write};
use crate::dtype::Stored;
use driver::{Driver, Operand, extents};
use kernel::Named;
pub(crate) use left::{SIDE, copy_rows};
pub(crate) use pack::Packed;
pub(crate) use right::{Made, Panels, Right};

/// What is multiplied with what.
pub(crate) trait Kind: 'static {
    /// Elements of the left matrix.
    type Left: bytemuck::Pod + Send + Sync;
    /// Elements of the right matrix, of the same size.
    type Right: Packed;
    /// Sums.
    type Sum: bytemuck::Pod;
    /// The kernels of this machine, fastest first.
    fn kernels() -> &'static [Named];
}

macro_rules! kind {
    ($(#[$doc:meta])* $name:ident, $left:ty, $right:ty, $sum:ty, $kernels:ident) => {
        $(#[$doc])*
        pub(crate) struct $name;

        impl Kind for $name {
            type Left = $left;
            type Right = $right;
            type Sum = $sum;
            fn kernels() -> &'static [Named] {
                static KERNELS: LazyLock<Vec<Named>> = LazyLock::new(kernel::$kernels);
                &KERNELS
            }
        }
    };
}
kind!(
    /// f32 · f32.
    F32, f32, f32, f32, f32_kernels
);
kind!(
    /// bf16 · bf16, summed in f32.
    Bf16, bf16, bf16, f32, bf16_kernels
);
kind!(
    /// Unsigned · signed bytes, summed in i32.
    Int8, u8, i8, i32, int8_kernels
);

/// a·b.
#[derive(Clone, Copy)]
pub(crate) struct Term<'a, L, R> {
    /// `[m, k]`.
    pub(crate) a: Mat<'a, L>,
    /// `[k, n]`.
    pub(crate) b: Right<'a, R>,
}

type TermOf<'a, K> = Term<'a, <K as Kind>::Left, <K as Kind>::Right>;

/// c (+)= scale · Σ aᵢ·bᵢ.
pub(crate) fn product<K: Kind<Sum = f32>, O: Stored<Compute = f32>>(
    c: MatMut<O>,
    write: Write,
    scale: f32,
    terms: &[TermOf<K>],
    threads: Threads,
) {
    let operands = Operand::all::<K>(terms);
    assert_eq!((c.rows(), c.cols()), extents(&operands));
    sums_of(
        &operands,
        threads,
        #[inline(always)]
        |i, cols, sums: &mut [f32]| {
            // SAFETY: each element of c belongs to one tile.
            let c = unsafe { c.row(i, cols) };
            match write {
                Write::Set => c.iter_mut().zip(sums).for_each(|(c, &mut s)| *c = O::store(scale * s)),
                Write::Add => c.iter_mut().zip(sums).for_each(|(c, &mut s)| *c = O::store(c.load() + scale * s)),
            }
        },
    );
}

/// Σ aᵢ·bᵢ, handed to `emit` by rows of tiles: row, columns, sums.
pub(crate) fn sums<K: Kind>(
    terms: &[TermOf<K>],
    threads: Threads,
    emit: impl Fn(usize, Range<usize>, &[K::Sum]) + Sync,
) {
    sums_of(
        &Operand::all::<K>(terms),
        threads,
        #[inline(always)]
        |i, cols, sums: &mut [K::Sum]| emit(i, cols, sums),
    );
}

/// c = `settle`(Σ aᵢ·bᵢ) + Σ of `rest`, a product of one kind and of another in the same registers: `settle` makes the sums of
/// a row of a tile, in place, the bits of f32.
pub(crate) fn product_and_rest<K: Kind, R: Kind<Sum = f32>, O: Stored<Compute = f32>>(
    c: MatMut<O>,
    terms: &[TermOf<K>],
    settle: impl Fn(usize, Range<usize>, &mut [u32]) + Sync,
    rest: &[TermOf<R>],
    threads: Threads,
) {
    let mut operands = Operand::all::<K>(terms);
    let first = operands.len();
    operands.extend(Operand::all::<R>(rest));
    assert_eq!((c.rows(), c.cols()), extents(&operands));
    Driver::of(&operands, Some(first)).run(
        threads,
        settle,
        #[inline(always)]
        |i, cols, sums| {
            // SAFETY: each element of c belongs to one tile.
            let c = unsafe { c.row(i, cols) };
            c.iter_mut().zip(sums).for_each(|(c, &mut s)| *c = O::store(f32::from_bits(s)));
        },
    );
}

fn sums_of<S: bytemuck::Pod>(
    operands: &[Operand],
    threads: Threads,
    emit: impl Fn(usize, Range<usize>, &mut [S]) + Sync,
) {
    Driver::of(operands, None).run(
        threads,
        |_, _, _| (),
        #[inline(always)]
        |i, cols, sums| emit(i, cols, bytemuck::cast_slice_mut(sums)),
    );
}

#[cfg(test)]
mod tests;
