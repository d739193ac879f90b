//! The right matrix of a product, in whichever form.

use std::ops::Range;

use super::kernel::NR;
use super::pack::{self, Packed};
use crate::cpu::mat::Mat;
use crate::cpu::memory;
use crate::cpu::simd::vectorised;

/// The right matrix of a product.
#[derive(Clone, Copy)]
pub(crate) enum Right<'a, R> {
    /// As it lies; packed piece by piece.
    Mat(Mat<'a, R>),
    /// Packed before, for several products.
    Panels(&'a Panels<'a, R>),
    /// Made where it is packed.
    Made(&'a dyn Made<R>),
}

/// A right matrix that is never written down: its elements are made from something smaller.
pub(crate) trait Made<R>: Sync {
    /// Rows, columns.
    fn extents(&self) -> (usize, usize);
    /// Writes what is not zero of rows `k` and columns `cols` to `out`, which is zero, its rows `stride` apart.
    fn write(&self, k: Range<usize>, cols: Range<usize>, out: &mut [R], stride: usize);
}

impl<'a, R> From<Mat<'a, R>> for Right<'a, R> {
    fn from(mat: Mat<'a, R>) -> Self {
        Self::Mat(mat)
    }
}

impl<'a, R> From<&'a Panels<'a, R>> for Right<'a, R> {
    fn from(panels: &'a Panels<'a, R>) -> Self {
        Self::Panels(panels)
    }
}

impl<R> Right<'_, R> {
    /// Columns.
    pub(crate) fn cols(&self) -> usize {
        self.extents().1
    }

    fn extents(&self) -> (usize, usize) {
        match self {
            Self::Mat(mat) | Self::Panels(Panels { mat, .. }) => (mat.rows(), mat.cols()),
            Self::Made(made) => made.extents(),
        }
    }
}

/// A right matrix that several products share, packed once.
pub(crate) struct Panels<'a, R> {
    pub(crate) mat: Mat<'a, R>,
    words: Vec<u32>,
}

impl<'a, R> Panels<'a, R> {
    /// Of a type that is not packed.
    pub(crate) fn as_it_is(mat: Mat<'a, R>) -> Self {
        Self { mat, words: Vec::new() }
    }
}

impl<'a, R: Packed> Panels<'a, R> {
    /// Packs `mat`.
    pub(crate) fn packed(mat: Mat<'a, R>) -> Self {
        let size = pack::words::<R>(mat.rows()) * NR;
        let mut words = memory::unfilled(mat.cols().div_ceil(NR) * size);
        vectorised(
            #[inline(always)]
            || pack::pack(&mat, 0..mat.rows(), 0..mat.cols(), &mut words),
        );
        Self { mat, words }
    }

    /// Panel `p` from element `k` on.
    #[inline(always)]
    fn from(&self, p: usize, k: usize) -> &[u32] {
        let size = pack::words::<R>(self.mat.rows()) * NR;
        &self.words[p * size..][..size][k / R::PER_WORD * NR..]
    }
}

/// A right matrix of any elements.
pub(super) trait InPanels: Sync {
    /// Rows and columns.
    fn extents(&self) -> (usize, usize);
    /// Elements of k in a word.
    fn per_word(&self) -> usize;
    /// Panels from column `col` on, from row `k` on: where they were packed before.
    fn packed(&self, col: usize, k: usize) -> Option<&[u32]>;
    /// Packs rows `k` and columns `cols`, unless they were packed before.
    fn pack(&self, k: Range<usize>, cols: Range<usize>, out: &mut [u32]);
}

impl<R: Packed> InPanels for Right<'_, R> {
    fn extents(&self) -> (usize, usize) {
        Right::extents(self)
    }

    fn per_word(&self) -> usize {
        R::PER_WORD
    }

    fn packed(&self, col: usize, k: usize) -> Option<&[u32]> {
        match self {
            Self::Panels(panels) => Some(panels.from(col / NR, k)),
            Self::Mat(_) | Self::Made(_) => None,
        }
    }

    fn pack(&self, k: Range<usize>, cols: Range<usize>, out: &mut [u32]) {
        vectorised(
            #[inline(always)]
            || match self {
                Self::Mat(b) => pack::pack(b, k, cols, out),
                Self::Made(b) => pack::pack_made(*b, k, cols, out),
                Self::Panels(_) => {}
            },
        );
    }
}
