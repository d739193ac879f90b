//! Reductions over a row in sixteen running sums: the compiler may not reorder a plain float sum, so a plain
//! loop would wait for each addition. The order is fixed, so results are the same on every run.

use crate::dtype::Real;

const LANES: usize = 16;

/// Σ f(aᵢ).
#[inline(always)]
pub(crate) fn sum_by<T: Real>(a: &[T], f: impl Fn(T) -> T) -> T {
    let mut acc = [T::zero(); LANES];
    let chunks = a.chunks_exact(LANES);
    let tail: T = chunks.remainder().iter().map(|&x| f(x)).sum();
    for chunk in chunks {
        for l in 0..LANES {
            acc[l] += f(chunk[l]);
        }
    }
    acc.into_iter().sum::<T>() + tail
}

/// Σ f(aᵢ, bᵢ).
#[inline(always)]
pub(crate) fn sum_by2<T: Real>(a: &[T], b: &[T], f: impl Fn(T, T) -> T) -> T {
    let mut acc = [T::zero(); LANES];
    let (ca, cb) = (a.chunks_exact(LANES), b.chunks_exact(LANES));
    let tail: T = ca.remainder().iter().zip(cb.remainder()).map(|(&x, &y)| f(x, y)).sum();
    for (x, y) in ca.zip(cb) {
        for l in 0..LANES {
            acc[l] += f(x[l], y[l]);
        }
    }
    acc.into_iter().sum::<T>() + tail
}

/// Σ aᵢ.
#[inline(always)]
pub(crate) fn sum<T: Real>(a: &[T]) -> T {
    sum_by(a, |x| x)
}

/// Σ aᵢ·bᵢ.
#[inline(always)]
pub(crate) fn dot<T: Real>(a: &[T], b: &[T]) -> T {
    sum_by2(a, b, |x, y| x * y)
}

/// max aᵢ, −∞ when empty.
#[inline(always)]
pub(crate) fn max<T: Real>(a: &[T]) -> T {
    let mut acc = [T::neg_infinity(); LANES];
    let chunks = a.chunks_exact(LANES);
    let mut best = T::neg_infinity();
    for &x in chunks.remainder() {
        best = if x > best { x } else { best };
    }
    for chunk in chunks {
        for l in 0..LANES {
            acc[l] = if chunk[l] > acc[l] { chunk[l] } else { acc[l] };
        }
    }
    acc.into_iter().fold(best, |m, x| if x > m { x } else { m })
}

#[cfg(test)]
mod tests {
    #[test]
    fn sums_count_every_element() {
        let a: Vec<f64> = (0..37).map(f64::from).collect();
        assert_eq!(super::sum(&a), 666.0);
        assert_eq!(super::dot(&a, &a), 16_206.0);
        assert_eq!(super::max(&a), 36.0);
    }
}
