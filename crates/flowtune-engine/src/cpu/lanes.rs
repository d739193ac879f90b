//! Reductions over a row in sixteen running sums: the compiler may not reorder a plain float sum, so a plain
//! loop would wait for each addition. The order is fixed, so results are the same on every run.

use num_traits::{Float, Zero};

use crate::dtype::Stored;

const LANES: usize = 16;

/// Σ f(aᵢ).
#[inline(always)]
pub(crate) fn sum_by<T: Stored>(a: &[T], f: impl Fn(T::Compute) -> T::Compute) -> T::Compute {
    let mut acc = [T::Compute::zero(); LANES];
    let chunks = a.chunks_exact(LANES);
    let tail: T::Compute = chunks.remainder().iter().map(|&x| f(x.load())).sum();
    for chunk in chunks {
        for l in 0..LANES {
            acc[l] += f(chunk[l].load());
        }
    }
    acc.into_iter().sum::<T::Compute>() + tail
}

/// Σ f(aᵢ, bᵢ).
#[inline(always)]
pub(crate) fn sum_by2<A: Stored, B: Stored<Compute = A::Compute>>(
    a: &[A],
    b: &[B],
    f: impl Fn(A::Compute, A::Compute) -> A::Compute,
) -> A::Compute {
    let mut acc = [A::Compute::zero(); LANES];
    let (ca, cb) = (a.chunks_exact(LANES), b.chunks_exact(LANES));
    let tail: A::Compute = ca.remainder().iter().zip(cb.remainder()).map(|(&x, &y)| f(x.load(), y.load())).sum();
    for (x, y) in ca.zip(cb) {
        for l in 0..LANES {
            acc[l] += f(x[l].load(), y[l].load());
        }
    }
    acc.into_iter().sum::<A::Compute>() + tail
}

/// Σ f(aᵢ, bᵢ, cᵢ).
#[inline(always)]
pub(crate) fn sum_by3<A: Stored, B: Stored<Compute = A::Compute>, C: Stored<Compute = A::Compute>>(
    a: &[A],
    b: &[B],
    c: &[C],
    f: impl Fn(A::Compute, A::Compute, A::Compute) -> A::Compute,
) -> A::Compute {
    let mut acc = [A::Compute::zero(); LANES];
    let (ca, cb, cc) = (a.chunks_exact(LANES), b.chunks_exact(LANES), c.chunks_exact(LANES));
    let tail = ca.remainder().iter().zip(cb.remainder()).zip(cc.remainder());
    let tail: A::Compute = tail.map(|((&x, &y), &z)| f(x.load(), y.load(), z.load())).sum();
    for ((x, y), z) in ca.zip(cb).zip(cc) {
        for l in 0..LANES {
            acc[l] += f(x[l].load(), y[l].load(), z[l].load());
        }
    }
    acc.into_iter().sum::<A::Compute>() + tail
}

/// Σ aᵢ.
#[inline(always)]
pub(crate) fn sum<T: Stored>(a: &[T]) -> T::Compute {
    sum_by(a, |x| x)
}

/// Σ aᵢ·bᵢ.
#[inline(always)]
pub(crate) fn dot<A: Stored, B: Stored<Compute = A::Compute>>(a: &[A], b: &[B]) -> A::Compute {
    sum_by2(a, b, |x, y| x * y)
}

/// max f(aᵢ), −∞ when empty.
#[inline(always)]
pub(crate) fn max_by<T: Stored>(a: &[T], f: impl Fn(T::Compute) -> T::Compute) -> T::Compute {
    let mut acc = [T::Compute::neg_infinity(); LANES];
    let chunks = a.chunks_exact(LANES);
    for (acc, &x) in acc.iter_mut().zip(chunks.remainder()) {
        *acc = larger(f(x.load()), *acc);
    }
    for chunk in chunks {
        for l in 0..LANES {
            acc[l] = larger(f(chunk[l].load()), acc[l]);
        }
    }
    acc.into_iter().fold(T::Compute::neg_infinity(), |m, x| larger(x, m))
}

/// max f(aᵢ, bᵢ), −∞ when empty.
#[inline(always)]
pub(crate) fn max_by2<A: Stored, B: Stored<Compute = A::Compute>>(
    a: &[A],
    b: &[B],
    f: impl Fn(A::Compute, A::Compute) -> A::Compute,
) -> A::Compute {
    let mut acc = [A::Compute::neg_infinity(); LANES];
    let (ca, cb) = (a.chunks_exact(LANES), b.chunks_exact(LANES));
    for (acc, (&x, &y)) in acc.iter_mut().zip(ca.remainder().iter().zip(cb.remainder())) {
        *acc = larger(f(x.load(), y.load()), *acc);
    }
    for (x, y) in ca.zip(cb) {
        for l in 0..LANES {
            acc[l] = larger(f(x[l].load(), y[l].load()), acc[l]);
        }
    }
    acc.into_iter().fold(A::Compute::neg_infinity(), |m, x| larger(x, m))
}

/// max aᵢ, −∞ when empty.
#[inline(always)]
pub(crate) fn max<T: Stored>(a: &[T]) -> T::Compute {
    max_by(a, |x| x)
}

/// An instruction of its own in vectors, which `max` with its care for NaN is not.
#[inline(always)]
fn larger<T: PartialOrd>(x: T, than: T) -> T {
    if x > than { x } else { than }
}

#[cfg(test)]
mod tests {
    #[test]
    fn sums_and_maxima_count_every_element() {
        let a: Vec<f64> = (0..37).map(f64::from).collect();
        assert_eq!(super::sum(&a), 666.0);
        assert_eq!(super::dot(&a, &a), 16_206.0);
        assert_eq!(super::max(&a), 36.0);
        assert_eq!(super::max(&a[..3]), 2.0);
        assert_eq!((super::max_by(&a, |x| -x), super::max_by2(&a, &a, |x, y| x * (9.0 - y))), (0.0, 20.0));
    }
}
