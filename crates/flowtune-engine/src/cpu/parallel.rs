//! Row loops over the thread pool. Work is cut by a fixed grain, never by the number of threads, so sums come
//! out the same on every machine.

use rayon::prelude::*;

/// Elements below which a loop is not worth another thread.
const GRAIN: usize = 1 << 14;

/// Rows in one piece of work when a row has `row` elements.
fn grain_rows(row: usize) -> usize {
    (GRAIN / row.max(1)).max(1)
}

/// f(i, row i of `out`) for all rows of `out`.
pub(crate) fn rows<T: Send>(out: &mut [T], row: usize, f: impl Fn(usize, &mut [T]) + Sync) {
    let step = grain_rows(row);
    out.par_chunks_mut(step * row.max(1)).enumerate().for_each(|(chunk, out)| {
        for (i, out) in out.chunks_mut(row.max(1)).enumerate() {
            f(chunk * step + i, out);
        }
    });
}

/// Σ over `rows` rows of what `f` adds to a vector of `width`: pieces in parallel, summed in order.
pub(crate) fn sum_rows<T: crate::dtype::Real>(rows: usize, width: usize, f: impl Fn(usize, &mut [T]) + Sync) -> Vec<T> {
    let step = grain_rows(width);
    let pieces: Vec<Vec<T>> = (0..rows.div_ceil(step))
        .into_par_iter()
        .map(|piece| {
            let mut acc = vec![T::zero(); width];
            for row in piece * step..((piece + 1) * step).min(rows) {
                f(row, &mut acc);
            }
            acc
        })
        .collect();
    pieces
        .into_iter()
        .reduce(|mut a, b| {
            a.iter_mut().zip(b).for_each(|(a, b)| *a += b);
            a
        })
        .unwrap_or_else(|| vec![T::zero(); width])
}

/// A new vector of `rows * row` elements filled by f(i, row i).
pub(crate) fn fill<T: crate::dtype::Real>(rows_: usize, row: usize, f: impl Fn(usize, &mut [T]) + Sync) -> Vec<T> {
    let mut out = vec![T::zero(); rows_ * row];
    rows(&mut out, row, f);
    out
}
