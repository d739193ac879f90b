//! Walking over tensors whose dimensions are repeated or stand in another order.

use crate::cpu::parallel;
use crate::dtype::{Real, Stored};

/// Extents with, for each of `N` operands, the distance of neighbours along each dimension; 0 where it is repeated.
/// Dimensions that lie behind one another in every operand are joined, so that inner loops are long.
pub(crate) struct Walk<const N: usize> {
    shape: Vec<usize>,
    strides: [Vec<usize>; N],
}

/// Distances of neighbours in a row-major tensor of `shape`.
pub(crate) fn row_major(shape: &[usize]) -> Vec<usize> {
    let mut strides = vec![1; shape.len()];
    for i in (1..shape.len()).rev() {
        strides[i - 1] = strides[i] * shape[i];
    }
    strides
}

/// Distances of neighbours in a tensor of `shape` that is repeated to `target`; its dimensions are the last ones.
pub(crate) fn repeated(shape: &[usize], target: &[usize]) -> Vec<usize> {
    let new = target.len() - shape.len();
    let own = row_major(shape);
    let stride = |i: usize| if i < new || shape[i - new] == 1 { 0 } else { own[i - new] };
    (0..target.len()).map(stride).collect()
}

impl<const N: usize> Walk<N> {
    pub(crate) fn new(shape: &[usize], strides: [Vec<usize>; N]) -> Self {
        let mut walk = Self { shape: Vec::new(), strides: std::array::from_fn(|_| Vec::new()) };
        for (i, &extent) in shape.iter().enumerate().filter(|(_, extent)| **extent != 1) {
            let joins =
                !walk.shape.is_empty() && (0..N).all(|n| walk.strides[n].last() == Some(&(strides[n][i] * extent)));
            match (joins, walk.shape.last_mut()) {
                (true, Some(last)) => *last *= extent,
                _ => walk.shape.push(extent),
            }
            for (own, given) in walk.strides.iter_mut().zip(&strides) {
                if joins {
                    own.pop();
                }
                own.push(given[i]);
            }
        }
        if walk.shape.is_empty() {
            walk.shape.push(1);
            walk.strides.iter_mut().for_each(|s| s.push(0));
        }
        walk
    }

    /// Extent of the last dimension.
    pub(crate) fn inner(&self) -> usize {
        self.shape[self.shape.len() - 1]
    }

    /// Distances of neighbours along the last dimension.
    pub(crate) fn steps(&self) -> [usize; N] {
        std::array::from_fn(|n| self.strides[n][self.shape.len() - 1])
    }

    /// How many rows along the last dimension there are.
    pub(crate) fn rows(&self) -> usize {
        self.shape[..self.shape.len() - 1].iter().product()
    }

    /// Where row `row` begins in each operand.
    pub(crate) fn starts(&self, mut row: usize) -> [usize; N] {
        let mut starts = [0; N];
        for i in (0..self.shape.len() - 1).rev() {
            let at = row % self.shape[i];
            row /= self.shape[i];
            for (start, strides) in starts.iter_mut().zip(&self.strides) {
                *start += at * strides[i];
            }
        }
        starts
    }
}

/// The elements of `x` in the order of the walk.
pub(crate) fn copy<T: Stored>(x: &[T], walk: &Walk<1>) -> Vec<T> {
    let [step] = walk.steps();
    parallel::fill(
        walk.rows(),
        walk.inner(),
        #[inline(always)]
        |row, out| {
            let [start] = walk.starts(row);
            match step {
                0 => out.fill(x[start]),
                1 => out.copy_from_slice(&x[start..][..out.len()]),
                _ => out.iter_mut().zip(x[start..].iter().step_by(step)).for_each(|(o, &x)| *o = x),
            }
        },
    )
}

/// f of the elements of `x` and `y` in the order of the walk.
pub(crate) fn zip<T: Stored>(
    x: &[T],
    y: &[T],
    walk: &Walk<2>,
    f: impl Fn(T::Compute, T::Compute) -> T::Compute + Sync,
) -> Vec<T> {
    let f = |x: T, y: T| T::store(f(x.load(), y.load()));
    let [x_step, y_step] = walk.steps();
    parallel::fill(
        walk.rows(),
        walk.inner(),
        #[inline(always)]
        |row, out| {
            let [x_start, y_start] = walk.starts(row);
            let (x, y) = (&x[x_start..], &y[y_start..]);
            match (x_step, y_step) {
                (1, 1) => out.iter_mut().zip(x).zip(y).for_each(|((o, &x), &y)| *o = f(x, y)),
                (1, 0) => out.iter_mut().zip(x).for_each(|(o, &x)| *o = f(x, y[0])),
                (0, 1) => out.iter_mut().zip(y).for_each(|(o, &y)| *o = f(x[0], y)),
                _ => out.iter_mut().enumerate().for_each(|(i, o)| *o = f(x[i * x_step], y[i * y_step])),
            }
        },
    )
}

/// Σ of the elements of `x` that the walk takes to the same of `length` places; operand 0 is `x`, operand 1 the sum.
/// In f64, in the order of `x`.
pub(crate) fn sum<T: Real>(x: &[T], length: usize, walk: &Walk<2>) -> Vec<T> {
    let mut sums = vec![0f64; length];
    let [x_step, step] = walk.steps();
    for row in 0..walk.rows() {
        let [x_start, start] = walk.starts(row);
        let values = x[x_start..].iter().step_by(x_step.max(1)).take(walk.inner());
        let values = values.map(|&x| candle_core::WithDType::to_f64(x));
        match step {
            0 => sums[start] += values.sum::<f64>(),
            _ => sums[start..].iter_mut().step_by(step).zip(values).for_each(|(s, x)| *s += x),
        }
    }
    sums.into_iter().map(T::of).collect()
}
