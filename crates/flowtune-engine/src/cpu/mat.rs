//! Matrices inside slices.

use std::marker::PhantomData;
use std::ops::Range;

/// A read-only matrix inside a slice: element (i, j) is `data[i * row_stride + j * col_stride]`.
pub(crate) struct Mat<'a, T> {
    data: &'a [T],
    rows: usize,
    cols: usize,
    row_stride: usize,
    col_stride: usize,
}

impl<T> Clone for Mat<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Mat<'_, T> {}

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
    pub(crate) fn slice_rows(self, start: usize, count: usize) -> Self {
        assert!(start + count <= self.rows);
        Self { data: &self.data[(start * self.row_stride).min(self.data.len())..], rows: count, ..self }
    }

    /// Columns of a matrix with adjacent columns.
    pub(crate) fn slice_cols(self, cols: &Range<usize>) -> Self {
        assert!(self.col_stride == 1 && cols.end <= self.cols);
        Self { data: &self.data[cols.start.min(self.data.len())..], cols: cols.len(), ..self }
    }

    /// Row `i` of a matrix with adjacent columns.
    #[inline(always)]
    pub(crate) fn row(&self, i: usize) -> &'a [T] {
        debug_assert_eq!(self.col_stride, 1);
        &self.data[i * self.row_stride..][..self.cols]
    }

    /// Column `j` of a matrix with adjacent rows.
    #[inline(always)]
    pub(crate) fn column(&self, j: usize) -> &'a [T] {
        debug_assert_eq!(self.row_stride, 1);
        &self.data[j * self.col_stride..][..self.rows]
    }

    /// Element (i, j).
    #[inline(always)]
    pub(crate) fn get(&self, i: usize, j: usize) -> T
    where
        T: Copy,
    {
        self.data[i * self.row_stride + j * self.col_stride]
    }

    /// Rows.
    pub(crate) fn rows(&self) -> usize {
        self.rows
    }

    /// Columns.
    pub(crate) fn cols(&self) -> usize {
        self.cols
    }

    /// Elements from one row to the next.
    pub(crate) fn row_stride(&self) -> usize {
        self.row_stride
    }

    /// Elements from one column to the next.
    pub(crate) fn col_stride(&self) -> usize {
        self.col_stride
    }

    /// What it lies in, from element (0, 0) on.
    pub(crate) fn data(&self) -> &'a [T] {
        self.data
    }

    /// Where element (0, 0) is.
    pub(crate) fn as_ptr(&self) -> *const T {
        self.data.as_ptr()
    }

    /// Whether the elements of a row are adjacent.
    pub(crate) fn is_row_major(&self) -> bool {
        self.col_stride == 1
    }

    /// The transpose; nothing moves.
    pub(crate) fn t(self) -> Self {
        Self { rows: self.cols, cols: self.rows, row_stride: self.col_stride, col_stride: self.row_stride, ..self }
    }
}

/// A matrix to write to: rows of adjacent elements, `row_stride` apart. Blocks of it can be written by several threads.
pub(crate) struct MatMut<'a, T> {
    data: *mut T,
    rows: usize,
    cols: usize,
    row_stride: usize,
    borrowed: PhantomData<&'a mut [T]>,
}

// SAFETY: a `MatMut` is the only way to its elements, as a `&mut [T]` would be; see `MatMut::row`.
unsafe impl<T: Send> Send for MatMut<'_, T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for MatMut<'_, T> {}

impl<'a, T> MatMut<'a, T> {
    /// Row-major with `cols` columns.
    pub(crate) fn new(data: &'a mut [T], cols: usize) -> Self {
        Self::strided(data, data.len() / cols.max(1), cols, cols)
    }

    /// Rows of `cols` adjacent elements, `row_stride` apart.
    pub(crate) fn strided(data: &'a mut [T], rows: usize, cols: usize, row_stride: usize) -> Self {
        assert!(cols <= row_stride && (rows == 0 || cols == 0 || (rows - 1) * row_stride + cols <= data.len()));
        Self { data: data.as_mut_ptr(), rows, cols, row_stride, borrowed: PhantomData }
    }

    /// Rows.
    pub(crate) fn rows(&self) -> usize {
        self.rows
    }

    /// Columns.
    pub(crate) fn cols(&self) -> usize {
        self.cols
    }

    /// Elements from one row to the next.
    pub(crate) fn row_stride(&self) -> usize {
        self.row_stride
    }

    /// Where element (0, 0) is.
    pub(crate) fn as_mut_ptr(&mut self) -> *mut T {
        self.data
    }

    /// Rows `start..start + count`, while this matrix is not used.
    pub(crate) fn slice_rows(&mut self, start: usize, count: usize) -> MatMut<'_, T> {
        assert!(start + count <= self.rows);
        MatMut { data: self.data.wrapping_add(start * self.row_stride), rows: count, borrowed: PhantomData, ..*self }
    }

    /// Blocks of `rows` × `cols`, row by row of blocks; they cover the matrix.
    pub(crate) fn blocks(self, rows: usize, cols: usize) -> Vec<Self> {
        assert!(self.rows.is_multiple_of(rows.max(1)) && self.cols.is_multiple_of(cols.max(1)));
        let starts = (0..self.rows).step_by(rows.max(1));
        let block = |(i, j): (usize, usize)| Self {
            data: self.data.wrapping_add(i * self.row_stride + j),
            rows,
            cols,
            row_stride: self.row_stride,
            borrowed: PhantomData,
        };
        starts.flat_map(|i| (0..self.cols).step_by(cols.max(1)).map(move |j| (i, j))).map(block).collect()
    }

    /// Columns `cols` of row `i`.
    ///
    /// # Safety
    /// No two slices that are alive overlap.
    #[allow(clippy::mut_from_ref)]
    #[inline(always)]
    pub(crate) unsafe fn row(&self, i: usize, cols: Range<usize>) -> &mut [T] {
        assert!(i < self.rows && cols.end <= self.cols);
        // SAFETY: it is in the matrix, and as the caller promised.
        unsafe { std::slice::from_raw_parts_mut(self.data.add(i * self.row_stride + cols.start), cols.len()) }
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
