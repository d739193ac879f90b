//! Matrix products with strides, over the `gemm` crate (the one candle's matmul uses).

use crate::cpu::parallel;
use crate::dtype::Real;
use gemm::Parallelism;

/// A read-only matrix inside a slice: element (i, j) is `data[i * row_stride + j * col_stride]`.
#[derive(Clone, Copy)]
pub(crate) struct Mat<'a, T> {
    data: &'a [T],
    rows: usize,
    cols: usize,
    row_stride: usize,
    col_stride: usize,
}

impl<'a, T> Mat<'a, T> {
    /// Row-major `[rows, cols]`.
    pub(crate) fn new(data: &'a [T], rows: usize, cols: usize) -> Self {
        Self::strided(data, rows, cols, cols)
    }

    /// Rows of `cols` adjacent elements, `row_stride` apart.
    pub(crate) fn strided(data: &'a [T], rows: usize, cols: usize, row_stride: usize) -> Self {
        assert!(rows == 0 || cols == 0 || (rows - 1) * row_stride + cols <= data.len());
        Self { data, rows, cols, row_stride, col_stride: 1 }
    }

    /// Rows `start..start + count` of a matrix with adjacent columns.
    pub(crate) fn rows(self, start: usize, count: usize) -> Self {
        assert!(start + count <= self.rows);
        Self { data: &self.data[(start * self.row_stride).min(self.data.len())..], rows: count, ..self }
    }

    /// Row `i` of a matrix with adjacent columns.
    pub(crate) fn row(&self, i: usize) -> &'a [T] {
        &self.data[i * self.row_stride..][..self.cols]
    }

    /// The transpose; nothing moves.
    pub(crate) fn t(self) -> Self {
        Self { rows: self.cols, cols: self.rows, row_stride: self.col_stride, col_stride: self.row_stride, ..self }
    }
}

/// Where a product goes: rows of adjacent elements, `row_stride` apart.
pub(crate) struct MatMut<'a, T> {
    data: &'a mut [T],
    row_stride: usize,
}

impl<'a, T> MatMut<'a, T> {
    /// Row-major with `cols` columns.
    pub(crate) fn new(data: &'a mut [T], cols: usize) -> Self {
        Self { data, row_stride: cols }
    }
}

/// What a product does to what is already there.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Write {
    /// c = scale·a·b
    Set,
    /// c += scale·a·b
    Add,
}

/// Threads of one product.
#[derive(Clone, Copy)]
pub(crate) enum Threads {
    /// The calling thread only: inside a parallel loop.
    One,
    /// The whole pool.
    All,
}

/// c (+)= scale · a · b.
pub(crate) fn gemm<T: Real>(c: MatMut<T>, write: Write, scale: T, a: Mat<T>, b: Mat<T>, threads: Threads) {
    assert_eq!(a.cols, b.rows);
    let (m, n, k) = (a.rows, b.cols, a.cols);
    if m == 0 || n == 0 {
        return;
    }
    assert!((m - 1) * c.row_stride + n <= c.data.len());
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
            c.data.as_mut_ptr(),
            1,
            c.row_stride as isize,
            write == Write::Add,
            a.data.as_ptr(),
            a.col_stride as isize,
            a.row_stride as isize,
            b.data.as_ptr(),
            b.col_stride as isize,
            b.row_stride as isize,
            T::one(),
            scale,
            false,
            false,
            false,
            parallelism,
        );
    }
}
