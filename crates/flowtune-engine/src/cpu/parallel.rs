//! Row loops over the thread pool. Work is cut by a fixed grain, never by the number of threads, so sums come
//! out the same on every machine.

use std::cell::Cell;
use std::sync::{Mutex, PoisonError};

use rayon::prelude::*;

use crate::cpu::memory::unfilled;
use crate::cpu::simd::vectorised;
use crate::dtype::Stored;
use crate::error::{Error, Result};

thread_local! {
    static STAY: Cell<bool> = const { Cell::new(false) };
}

/// Runs `f` with the engine's loops and products on the calling thread, with the same results. For threads that must not
/// wait: the pool may be busy with another thread's training step, and work that enters it queues behind that.
///
/// Covers what scripts compute with: everything but attention, the text encoders and the optimizers.
pub fn on_this_thread<R>(f: impl FnOnce() -> R) -> R {
    let before = STAY.replace(true);
    let _restore = Restore(before);
    f()
}

/// Puts the flag back even when `f` panics.
struct Restore(bool);

impl Drop for Restore {
    fn drop(&mut self) {
        STAY.set(self.0);
    }
}

/// Whether work must stay on the calling thread.
pub(crate) fn stays() -> bool {
    STAY.get()
}

/// Gives the engine `count` threads instead of one for each core. Only before the first operation, and once: a second call
/// changes nothing.
///
/// # Errors
/// `INTERNAL` when the threads are running already, or cannot be started.
pub fn set_num_threads(count: usize) -> Result<()> {
    static SET: Mutex<bool> = Mutex::new(false);
    let mut set = SET.lock().unwrap_or_else(PoisonError::into_inner);
    if !*set {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(count).thread_name(|i| format!("flowtune-{i}"));
        pool.build_global().map_err(|_| Error::Tape("the number of threads must be set before the first operation"))?;
        *set = true;
    }
    Ok(())
}

/// Threads of the engine.
pub fn num_threads() -> usize {
    rayon::current_num_threads()
}

/// Elements below which a loop is not worth another thread.
const GRAIN: usize = 1 << 14;

/// Rows in one piece of work when a row has `row` elements.
fn grain_rows(row: usize) -> usize {
    (GRAIN / row.max(1)).max(1)
}

/// f(i, row i of `out`) for all rows of `out`.
pub(crate) fn rows<T: Send>(out: &mut [T], row: usize, f: impl Fn(usize, &mut [T]) + Sync) {
    let step = grain_rows(row);
    let piece = |(chunk, out): (usize, &mut [T])| {
        vectorised(
            #[inline(always)]
            || {
                for (i, out) in out.chunks_mut(row.max(1)).enumerate() {
                    f(chunk * step + i, out);
                }
            },
        );
    };
    if stays() || out.len() <= step * row.max(1) {
        return out.chunks_mut(step * row.max(1)).enumerate().for_each(piece);
    }
    out.par_chunks_mut(step * row.max(1)).enumerate().for_each(piece);
}

/// f(i, item i) for all items, each of which stands for `row` elements.
pub(crate) fn items<T: Send>(items: Vec<T>, row: usize, f: impl Fn(usize, T) + Sync) {
    let work = |(i, item)| {
        vectorised(
            #[inline(always)]
            || f(i, item),
        );
    };
    if stays() || items.len() * row <= GRAIN {
        return items.into_iter().enumerate().for_each(work);
    }
    items.into_par_iter().with_min_len(grain_rows(row)).enumerate().for_each(work);
}

/// Σ over `rows` rows of what `f` adds to a vector of `width`: pieces in parallel, summed in order.
pub(crate) fn sum_rows<T: crate::dtype::Real>(rows: usize, width: usize, f: impl Fn(usize, &mut [T]) + Sync) -> Vec<T> {
    let step = grain_rows(width);
    let piece = |piece: usize| {
        let mut acc = vec![T::zero(); width];
        vectorised(
            #[inline(always)]
            || {
                for row in piece * step..((piece + 1) * step).min(rows) {
                    f(row, &mut acc);
                }
            },
        );
        acc
    };
    let count = rows.div_ceil(step);
    let pieces: Vec<Vec<T>> = match stays() {
        true => (0..count).map(piece).collect(),
        false => (0..count).into_par_iter().map(piece).collect(),
    };
    pieces
        .into_iter()
        .reduce(|mut a, b| {
            a.iter_mut().zip(b).for_each(|(a, b)| *a += b);
            a
        })
        .unwrap_or_else(|| vec![T::zero(); width])
}

/// A new vector of `rows * row` elements filled by f(i, row i).
pub(crate) fn fill<T: Stored>(rows_: usize, row: usize, f: impl Fn(usize, &mut [T]) + Sync) -> Vec<T> {
    let mut out = unfilled(rows_ * row);
    rows(&mut out, row, f);
    out
}

#[cfg(test)]
mod tests {
    use super::on_this_thread;
    use crate::{Tape, Tensor, Var};

    #[test]
    fn staying_on_a_thread_changes_no_bit() {
        let x = Var::constant(Tensor::new(
            (0..300_000).map(|i| ((i * 37) % 1001) as f32 * 0.01 - 5.0).collect(),
            &[600, 500],
        ));
        let w = Var::constant(Tensor::new(
            (0..100_000).map(|i| ((i * 53) % 997) as f32 * 0.002 - 1.0).collect(),
            &[200, 500],
        ));
        let compute = || {
            let tape = Tape::inference();
            let y = tape.silu(&tape.linear(&x, &w, None).unwrap()).unwrap();
            tape.sum(&y, &[0], false).unwrap().into_tensor().to_f32_vec().unwrap()
        };
        let pool = compute();
        let threads = std::sync::Mutex::new(std::collections::HashSet::new());
        let here = on_this_thread(|| {
            let mut out = vec![0u8; 1 << 20];
            super::rows(&mut out, 1, |_, _| {
                threads.lock().unwrap().insert(std::thread::current().id());
            });
            compute()
        });
        assert_eq!(pool, here);
        assert_eq!(threads.into_inner().unwrap().into_iter().collect::<Vec<_>>(), [std::thread::current().id()]);
        assert!(!super::stays());
    }
}
