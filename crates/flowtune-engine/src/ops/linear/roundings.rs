//! Small matrices whose rounding must not be felt: the adapters of a bfloat16 computation.

use crate::cpu::mat::Mat;
use crate::cpu::memory::unfilled;
use crate::cpu::parallel;
use crate::dtype::Stored;

/// A matrix as a sum of matrices in T: itself, or in bfloat16 its rounding r and the rounding of what that leaves, s. So
/// adapters count with 16 bits of mantissa instead of 8, for a few more columns of a product.
///
/// The parts of each row lie side by side, a left factor's as `r r s` and a right factor's as `r s r`: one product over all
/// of them sums r·r + r·s + s·r.
pub(super) struct Roundings<T> {
    data: Vec<T>,
    /// Elements of a row of one part.
    width: usize,
}

/// Which factor of a product it is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Factor {
    Left,
    Right,
}

impl<T: Stored> Roundings<T> {
    /// Parts that make a matrix.
    const COUNT: usize = if size_of::<T>() < size_of::<T::Compute>() { 2 } else { 1 };
    /// Parts that lie side by side.
    const BESIDE: usize = 2 * Self::COUNT - 1;

    /// Of rows of `width`.
    pub(super) fn of(x: &[T::Compute], width: usize, factor: Factor) -> Self {
        let mut data = unfilled(x.len() * Self::BESIDE);
        parallel::rows(
            &mut data,
            width * Self::BESIDE,
            #[inline(always)]
            |i, out| split(&x[i * width..][..width], out, factor),
        );
        Self { data, width }
    }

    /// All that lies side by side: `[rows, BESIDE·width]`.
    pub(super) fn all(&self) -> Mat<'_, T> {
        self.leading(Self::BESIDE)
    }

    /// Of a right factor, each part once: `[rows, COUNT·width]`.
    pub(super) fn once(&self) -> Mat<'_, T> {
        self.leading(Self::COUNT)
    }

    /// The rounding alone: `[rows, width]`.
    pub(super) fn rounded(&self) -> Mat<'_, T> {
        self.leading(1)
    }

    fn leading(&self, parts: usize) -> Mat<'_, T> {
        let row = self.width * Self::BESIDE;
        Mat::strided(&self.data, self.data.len() / row.max(1), parts * self.width, row)
    }
}

/// Parts of a row.
#[inline(always)]
fn split<T: Stored>(x: &[T::Compute], out: &mut [T], factor: Factor) {
    let mut parts = out.chunks_exact_mut(x.len().max(1));
    let (Some(first), second, third) = (parts.next(), parts.next(), parts.next()) else { return };
    first.iter_mut().zip(x).for_each(|(out, &x)| *out = T::store(x));
    let (Some(second), Some(third)) = (second, third) else { return };
    let (rest, again) = match factor {
        Factor::Left => (third, second),
        Factor::Right => (second, third),
    };
    again.copy_from_slice(first);
    for ((rest, &x), &rounded) in rest.iter_mut().zip(x).zip(&*first) {
        *rest = T::store(x - rounded.load());
    }
}

/// The sum of the parts of each row, of `width` each.
pub(super) fn joined<T: Stored>(x: Vec<T::Compute>, width: usize) -> Vec<T::Compute> {
    if Roundings::<T>::COUNT == 1 {
        return x;
    }
    parallel::fill(
        x.len() / (2 * width).max(1),
        width,
        #[inline(always)]
        |i, out: &mut [T::Compute]| {
            let (a, b) = x[2 * i * width..][..2 * width].split_at(width);
            for j in 0..width {
                out[j] = a[j] + b[j];
            }
        },
    )
}

#[cfg(test)]
mod tests {
    use super::{Factor, Roundings, joined};
    use half::bf16;

    const X: [f32; 6] = [1.000_123, -3.301_592_7, 0.0, 1e-3, 77.77, -0.5];

    #[test]
    fn two_of_bfloat16_make_sixteen_bits() {
        let parts = Roundings::<bf16>::of(&X, 3, Factor::Right);
        let once = parts.once();
        assert_eq!((once.rows(), once.cols(), parts.all().cols(), parts.rounded().cols()), (2, 6, 9, 3));
        let values = (0..2).flat_map(|i| once.row(i)).map(|x| x.to_f32()).collect();
        for (got, want) in joined::<bf16>(values, 3).into_iter().zip(X) {
            assert!((got - want).abs() <= want.abs() / 65_536.0, "{got} {want}");
        }
    }

    #[test]
    fn the_product_of_all_leaves_out_the_remainders_alone() {
        let (left, right) = (Roundings::<bf16>::of(&X, 6, Factor::Left), Roundings::<bf16>::of(&X, 6, Factor::Right));
        let products = left.all().row(0).iter().zip(right.all().row(0)).map(|(a, b)| a.to_f64() * b.to_f64());
        let (got, want) = (products.sum::<f64>(), X.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>());
        // With |s| ≤ 2⁻⁸|x|: s·s is left out, and twice x times the rounding of s.
        assert!((got - want).abs() <= want * 3.0 / 65_536.0, "{got} {want}");
    }

    #[test]
    fn float32_is_itself() {
        let parts = Roundings::<f32>::of(&X, 2, Factor::Left);
        assert_eq!((parts.all().cols(), parts.rounded().cols()), (2, 2));
        assert_eq!(joined::<f32>(X.to_vec(), 2), X);
    }
}
