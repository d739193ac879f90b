//! The left matrix of a product.

use super::kernel::MR;
use super::pack;
use crate::cpu::mat::Mat;
use crate::cpu::parallel;

/// The left matrix with k adjacent and rows of whole words; a copy where it is not so.
pub(super) enum Left<'a> {
    /// Its bytes from the first element on, those of an element, and those from row to row.
    AsItIs {
        bytes: &'a [u8],
        size: usize,
        row_bytes: usize,
    },
    Copy {
        words: Vec<u32>,
        size: usize,
        row_words: usize,
    },
}

impl<'a> Left<'a> {
    pub(super) fn of<L: bytemuck::Pod + Send + Sync>(a: &Mat<'a, L>, per_word: usize) -> Self {
        let size = size_of::<L>();
        if a.is_row_major() && a.cols().is_multiple_of(per_word) {
            return Self::AsItIs { bytes: bytemuck::cast_slice(a.data()), size, row_bytes: a.row_stride() * size };
        }
        let row_words = a.cols().div_ceil(per_word);
        let mut words = vec![0u32; a.rows() * row_words];
        let width = row_words * per_word;
        parallel::rows(
            &mut words,
            SIDE * row_words,
            #[inline(always)]
            |block, rows| copy_rows(a, block * SIDE, bytemuck::cast_slice_mut(rows), width),
        );
        Self::Copy { words, size, row_words }
    }

    /// Where element `k` of row `i` is, and bytes from row to row.
    pub(super) fn at(&self, i: usize, k: usize) -> (*const u8, usize) {
        match self {
            Self::AsItIs { bytes, size, row_bytes } => (bytes[i * row_bytes + k * size..].as_ptr(), *row_bytes),
            Self::Copy { words, size, row_words } => {
                (bytemuck::cast_slice::<u32, u8>(&words[i * row_words..])[k * size..].as_ptr(), row_words * 4)
            }
        }
    }
}

/// Side of the blocks in which a matrix is turned round.
pub(crate) const SIDE: usize = 16;

/// Rows of any matrix, from row `first` on, into rows of `width`.
#[inline(always)]
pub(crate) fn copy_rows<T: bytemuck::Pod>(a: &Mat<T>, first: usize, out: &mut [T], width: usize) {
    let (count, cols) = (out.len() / width, a.cols());
    let mut done = 0;
    // Where rows are adjacent, both sides of a block are read and written in lines of cache.
    if a.row_stride() == 1 && count == SIDE {
        for k in (0..cols / SIDE * SIDE).step_by(SIDE) {
            if pack::turn_words(a, first, k, out, width) {
                continue;
            }
            let block: [[T; SIDE]; SIDE] =
                std::array::from_fn(|i| *a.column(k + i)[first..].first_chunk().unwrap_or(&[T::zeroed(); SIDE]));
            for (i, row) in out.chunks_exact_mut(width).enumerate() {
                row[k..k + SIDE].copy_from_slice(&block.map(|line| line[i]));
            }
        }
        done = cols / SIDE * SIDE;
    }
    for (i, row) in out.chunks_exact_mut(width).enumerate() {
        for (k, out) in row[..cols].iter_mut().enumerate().skip(done) {
            *out = a.get(first + i, k);
        }
    }
}

/// `count` rows of `words` words, and zeros up to [`MR`] rows.
///
/// # Safety
/// `words` words can be read from each row.
pub(super) unsafe fn copy_last_rows(
    a: *const u8,
    row_bytes: usize,
    count: usize,
    words: usize,
    out: &mut Vec<u32>,
) -> *const u8 {
    out.clear();
    out.resize(MR * words, 0);
    for r in 0..count {
        // SAFETY: as the caller promised; out holds MR rows.
        unsafe {
            std::ptr::copy_nonoverlapping(a.add(r * row_bytes), out[r * words..].as_mut_ptr().cast::<u8>(), words * 4);
        }
    }
    out.as_ptr().cast()
}
