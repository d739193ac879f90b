//! Row loops over all threads. Work is cut by a fixed grain, never by the number of threads, so sums come
//! out the same on every machine.

use std::cell::Cell;
use std::num::NonZero;
use std::sync::{Mutex, OnceLock, PoisonError};
use std::thread::available_parallelism;

use crate::cpu::memory::unfilled;
use crate::cpu::simd::vectorised;
use crate::cpu::team;
use crate::dtype::Stored;
use crate::error::{Error, Result};

thread_local! {
    static STAY: Cell<bool> = const { Cell::new(false) };
}

/// Runs `f` with the engine's loops and products on the calling thread, with the same results. For threads that must not
/// wait for others, however busy the machine is.
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
    if *set {
        return Ok(());
    }
    // rayon's pool prepares data.
    let pool = rayon::ThreadPoolBuilder::new().num_threads(count).thread_name(|i| format!("flowtune-data-{i}"));
    if pool.build_global().is_err() || THREADS.set(count.max(1)).is_err() {
        return Err(Error::Tape("the number of threads must be set before the first operation"));
    }
    *set = true;
    Ok(())
}

static THREADS: OnceLock<usize> = OnceLock::new();

/// Threads of the engine.
pub fn num_threads() -> usize {
    *THREADS.get_or_init(|| available_parallelism().map_or(1, NonZero::get))
}

/// f(i) for all i below `count`, by the calling thread and those that help it.
pub(crate) fn tasks(count: usize, f: impl Fn(usize) + Sync) {
    if count < 2 || num_threads() < 2 || stays() {
        return (0..count).for_each(f);
    }
    team::run(count, num_threads() - 1, &f);
}

/// f(i, item i) for all items, as [`tasks`].
pub(crate) fn each<T: Send>(items: Vec<T>, f: impl Fn(usize, T) + Sync) {
    let items: Vec<Mutex<Option<T>>> = items.into_iter().map(|item| Mutex::new(Some(item))).collect();
    tasks(items.len(), |i| {
        let item = items[i].lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(item) = item {
            f(i, item);
        }
    });
}

/// f of all items, in their order, as [`tasks`].
pub(crate) fn map<T: Send, R: Send>(items: Vec<T>, f: impl Fn(T) -> R + Sync) -> Vec<R> {
    let mut out: Vec<Option<R>> = items.iter().map(|_| None).collect();
    each(out.iter_mut().zip(items).collect(), |_, (out, item)| *out = Some(f(item)));
    out.into_iter().flatten().collect()
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
    let piece = |chunk: usize, out: &mut [T]| {
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
        return out.chunks_mut(step * row.max(1)).enumerate().for_each(|(i, out)| piece(i, out));
    }
    each(out.chunks_mut(step * row.max(1)).collect(), piece);
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
    let step = grain_rows(row);
    let (mut items, mut groups) = (items.into_iter(), Vec::new());
    while items.len() > 0 {
        groups.push(items.by_ref().take(step).collect::<Vec<_>>());
    }
    each(groups, |group, items| items.into_iter().enumerate().for_each(|(i, item)| work((group * step + i, item))));
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
    map((0..count).collect(), piece)
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
