//! Matrix products of the types that tensors are stored in.

use std::ops::Range;

use gemm::Parallelism;
use half::bf16;

use crate::cpu::mat::{Mat, MatMut, Threads, Write};
use crate::cpu::parallel;
use crate::cpu::product::{self, Bf16, F32, Made, Panels, Right, Term};
use crate::dtype::Stored;
use crate::error::{Error, Result};
use crate::quant::{Block, Bytes, Int8Product, Int8Rows, Side};

/// A type that matrices hold.
pub(crate) trait Multiply: Stored {
    /// c (+)= scale · Σ aᵢ·bᵢ, summed in [`Stored::Compute`] and rounded once.
    fn multiply<O: Stored<Compute = Self::Compute>>(
        c: MatMut<O>,
        write: Write,
        scale: Self::Compute,
        terms: &[Term<Self, Self>],
        threads: Threads,
    );

    /// Σ aᵢ·bᵢ, handed to `emit` by parts of rows: row, columns, sums. Each element comes once.
    fn sums(terms: &[Term<Self, Self>], threads: Threads, emit: impl Fn(usize, Range<usize>, &[Self::Compute]) + Sync);

    /// [`Int8Rows::rounded`].
    ///
    /// # Errors
    /// When the type is too exact to meet int8.
    fn rounded(xs: &[Mat<Self>], weight: &Int8Rows, blocks: &[Block], side: Side) -> Result<Bytes>;

    /// c = a product with a weight in int8, plus the terms of `rest`.
    ///
    /// # Errors
    /// As [`Multiply::rounded`].
    fn multiply_int8<O: Stored<Compute = Self::Compute>>(
        c: MatMut<O>,
        product: &Int8Product,
        rest: &[Term<Self, Self>],
    ) -> Result<()>;

    /// `mat` as the right matrix of several products.
    fn panels(mat: Mat<Self>) -> Panels<Self>;
}

impl Multiply for f32 {
    fn multiply<O: Stored<Compute = f32>>(
        c: MatMut<O>,
        write: Write,
        scale: f32,
        terms: &[Term<f32, f32>],
        threads: Threads,
    ) {
        product::product::<F32, O>(c, write, scale, terms, threads);
    }

    fn sums(terms: &[Term<f32, f32>], threads: Threads, emit: impl Fn(usize, Range<usize>, &[f32]) + Sync) {
        product::sums::<F32>(terms, threads, emit);
    }

    fn rounded(xs: &[Mat<f32>], weight: &Int8Rows, blocks: &[Block], side: Side) -> Result<Bytes> {
        Ok(weight.rounded(xs, blocks, side))
    }

    fn multiply_int8<O: Stored<Compute = f32>>(
        c: MatMut<O>,
        product: &Int8Product,
        rest: &[Term<f32, f32>],
    ) -> Result<()> {
        product.and_rest::<F32, O>(c, rest);
        Ok(())
    }

    fn panels(mat: Mat<f32>) -> Panels<f32> {
        Panels::packed(mat)
    }
}

impl Multiply for bf16 {
    fn multiply<O: Stored<Compute = f32>>(
        c: MatMut<O>,
        write: Write,
        scale: f32,
        terms: &[Term<bf16, bf16>],
        threads: Threads,
    ) {
        product::product::<Bf16, O>(c, write, scale, terms, threads);
    }

    fn sums(terms: &[Term<bf16, bf16>], threads: Threads, emit: impl Fn(usize, Range<usize>, &[f32]) + Sync) {
        product::sums::<Bf16>(terms, threads, emit);
    }

    fn rounded(xs: &[Mat<bf16>], weight: &Int8Rows, blocks: &[Block], side: Side) -> Result<Bytes> {
        Ok(weight.rounded(xs, blocks, side))
    }

    fn multiply_int8<O: Stored<Compute = f32>>(
        c: MatMut<O>,
        product: &Int8Product,
        rest: &[Term<bf16, bf16>],
    ) -> Result<()> {
        product.and_rest::<Bf16, O>(c, rest);
        Ok(())
    }

    fn panels(mat: Mat<bf16>) -> Panels<bf16> {
        Panels::packed(mat)
    }
}

const TOO_EXACT: Error =
    Error::DType { op: "linear", expected: "bfloat16 or float32 beside an int8 weight", got: "float64" };

/// f64 is what gradients are checked in: the `gemm` crate's kernels are fast enough.
impl Multiply for f64 {
    fn multiply<O: Stored<Compute = f64>>(
        mut c: MatMut<O>,
        write: Write,
        scale: f64,
        terms: &[Term<f64, f64>],
        threads: Threads,
    ) {
        for (i, term) in terms.iter().enumerate() {
            let write = if i == 0 { write } else { Write::Add };
            let made;
            let b = match term.b {
                Right::Mat(mat) => mat,
                Right::Panels(panels) => panels.mat,
                Right::Made(b) => {
                    made = written(b);
                    Mat::new(&made, b.extents().0, b.extents().1)
                }
            };
            with_crate(&mut c, write, scale, term.a, b, threads);
        }
    }

    fn sums(terms: &[Term<f64, f64>], threads: Threads, emit: impl Fn(usize, Range<usize>, &[f64]) + Sync) {
        let (m, n) = terms.first().map_or((0, 0), |term| (term.a.rows(), term.b.cols()));
        let mut c = vec![0.0; m * n];
        Self::multiply(MatMut::new(&mut c, n), Write::Set, 1.0, terms, threads);
        c.chunks_exact(n.max(1)).enumerate().for_each(|(i, row)| emit(i, 0..n, row));
    }

    fn rounded(_: &[Mat<f64>], _: &Int8Rows, _: &[Block], _: Side) -> Result<Bytes> {
        Err(TOO_EXACT)
    }

    fn multiply_int8<O: Stored<Compute = f64>>(_: MatMut<O>, _: &Int8Product, _: &[Term<f64, f64>]) -> Result<()> {
        Err(TOO_EXACT)
    }

    fn panels(mat: Mat<f64>) -> Panels<f64> {
        Panels::as_it_is(mat)
    }
}

/// The whole of a matrix that is made.
fn written(b: &dyn Made<f64>) -> Vec<f64> {
    let (rows, cols) = b.extents();
    let mut out = vec![0.0; rows * cols];
    b.write(0..rows, 0..cols, &mut out, cols);
    out
}

/// `O` is f64: no other type is computed in f64.
fn with_crate<O: Stored<Compute = f64>>(
    c: &mut MatMut<O>,
    write: Write,
    scale: f64,
    a: Mat<f64>,
    b: Mat<f64>,
    threads: Threads,
) {
    let (m, n, k) = (a.rows(), b.cols(), a.cols());
    assert!((c.rows(), c.cols(), k, size_of::<O>()) == (m, n, b.rows(), size_of::<f64>()));
    if m == 0 || n == 0 {
        return;
    }
    let parallelism = match threads {
        _ if parallel::stays() => Parallelism::None,
        Threads::One => Parallelism::None,
        Threads::All => Parallelism::Rayon(0),
    };
    // SAFETY: the extents were checked against the slices above and in `Mat::strided`; `c` is borrowed
    // mutably, so it overlaps neither `a` nor `b`.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            c.as_mut_ptr().cast::<f64>(),
            1,
            c.row_stride() as isize,
            write == Write::Add,
            a.as_ptr(),
            a.col_stride() as isize,
            a.row_stride() as isize,
            b.as_ptr(),
            b.col_stride() as isize,
            b.row_stride() as isize,
            1.0,
            scale,
            false,
            false,
            false,
            parallelism,
        );
    }
}

/// c (+)= scale · a · b.
pub(crate) fn gemm<T: Multiply, O: Stored<Compute = T::Compute>>(
    c: MatMut<O>,
    write: Write,
    scale: T::Compute,
    a: Mat<T>,
    b: Mat<T>,
    threads: Threads,
) {
    T::multiply(c, write, scale, &[Term { a, b: b.into() }], threads);
}
