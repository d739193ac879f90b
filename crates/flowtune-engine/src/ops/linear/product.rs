//! Products of a weight and what it meets, on the host.

use std::ops::Range;

use super::layout::Layout;
use crate::cpu::gemm::Multiply;
use crate::cpu::mat::{Mat, MatMut, Threads, Write};
use crate::cpu::memory::unfilled;
use crate::cpu::product::{Right, Term};
use crate::dtype::Stored;
use crate::error::{Error, Result};
use crate::quant::{Quantised, Side};
use crate::tensor::Tensor;

/// A weight as products with T take it.
pub(super) struct Base<'a> {
    weight: &'a Tensor,
    /// In T, unless it is in fewer bits: masters are rounded.
    numbers: Option<Tensor>,
}

/// What meets some outputs and inputs of a weight.
pub(super) struct Piece<'a, T> {
    pub(super) x: Mat<'a, T>,
    pub(super) outputs: Range<usize>,
    pub(super) inputs: Range<usize>,
}

impl<'a> Base<'a> {
    pub(super) fn of<T: Multiply>(weight: &'a Tensor) -> Result<Self> {
        let numbers = match weight.quantised_on_host() {
            Some(_) => None,
            None => Some(weight.to_dtype(T::KIND)?),
        };
        Ok(Self { weight, numbers })
    }

    /// out = Σ x times the weight or its transpose over the pieces, plus the low-rank term. What meets int8 is rounded to
    /// int8 itself, token by token; the low-rank term is not. A weight in fewer bits meets one piece, as a whole.
    pub(super) fn combine<T: Multiply, O: Stored<Compute = T::Compute>>(
        &self,
        mut out: MatMut<O>,
        pieces: &[Piece<T>],
        side: Side,
        low_rank: Option<Product<T>>,
    ) -> Result<()> {
        let made;
        let mut terms: Vec<Product<T>> = match (self.weight.quantised_on_host(), pieces) {
            (None, _) => self.terms(pieces, side)?,
            (Some(Quantised::Int8(weight)), [Piece { x, .. }]) => {
                let Some(low_rank) = low_rank else { return T::multiply_int8(out, Write::Set, *x, weight, side) };
                let rows = out.rows();
                multiply(out.slice_rows(0, rows), one::<T>(), &[low_rank]);
                return T::multiply_int8(out, Write::Add, *x, weight, side);
            }
            (Some(Quantised::Nf4(weight)), [Piece { x, .. }]) => {
                made = weight.side(side);
                vec![Term { a: *x, b: Right::Made(&made) }]
            }
            (Some(_), _) => return Err(Error::Tape("parts of a weight in fewer bits")),
        };
        terms.extend(low_rank);
        multiply(out, one::<T>(), &terms);
        Ok(())
    }

    fn terms<'b, T: Multiply>(&'b self, pieces: &[Piece<'b, T>], side: Side) -> Result<Vec<Product<'b, T>>> {
        let numbers = self.numbers.as_ref().unwrap_or(self.weight);
        let weight = matrix::<T>(numbers, numbers.last_dim())?;
        let of_piece = |Piece { x, outputs, inputs }: &Piece<'b, T>| {
            let block = slice(weight, outputs).slice_cols(inputs);
            term(*x, if matches!(side, Side::Forward) { block.t() } else { block })
        };
        Ok(pieces.iter().map(of_piece).collect())
    }
}

pub(super) type Product<'a, T> = Term<'a, T, T>;

pub(super) fn term<'a, T>(a: Mat<'a, T>, b: Mat<'a, T>) -> Product<'a, T> {
    Term { a, b: b.into() }
}

/// out = scale·Σ a·b; zero when there is nothing to sum.
pub(super) fn multiply<T: Multiply, O: Stored<Compute = T::Compute>>(
    out: MatMut<O>,
    scale: T::Compute,
    terms: &[Product<T>],
) {
    if terms.is_empty() {
        let zero = O::store(num_traits::Zero::zero());
        // SAFETY: one row at a time.
        return (0..out.rows()).for_each(|i| unsafe { out.row(i, 0..out.cols()) }.fill(zero));
    }
    T::multiply(out, Write::Set, scale, terms, Threads::All);
}

/// scale·Σ a·b.
pub(super) fn sum<T: Multiply>(terms: &[Product<T>], scale: T::Compute) -> Vec<T::Compute> {
    let (rows, cols) = terms.first().map_or((0, 0), |term| (term.a.rows(), term.b.cols()));
    let mut c = unfilled(rows * cols);
    multiply(MatMut::new(&mut c, cols), scale, terms);
    c
}

pub(super) fn slice<'a, T>(x: Mat<'a, T>, rows: &Range<usize>) -> Mat<'a, T> {
    x.slice_rows(rows.start, rows.len())
}

/// The inputs as matrices of all rows.
pub(super) fn matrices<'a, T: Stored>(xs: &[&'a Tensor], layout: &Layout) -> Result<Vec<Mat<'a, T>>> {
    xs.iter().zip(&layout.columns).map(|(x, columns)| matrix(x, columns.len())).collect()
}

/// The rows of a tensor of `cols` columns.
pub(super) fn matrix<T: Stored>(x: &Tensor, cols: usize) -> Result<Mat<'_, T>> {
    Ok(Mat::new(x.as_slice::<T>()?, x.len() / cols.max(1), cols))
}

pub(super) fn one<T: Stored>() -> T::Compute {
    num_traits::One::one()
}
