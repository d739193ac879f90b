//! Products of a weight and what it meets, on the host.

use std::ops::Range;

use super::layout::Layout;
use crate::cpu::gemm::Multiply;
use crate::cpu::mat::{Mat, MatMut, Threads, Write};
use crate::cpu::memory::unfilled;
use crate::cpu::product::{Right, Term};
use crate::dtype::Stored;
use crate::error::Result;
use crate::quant::{Block, Bytes, Int8Product, Quantised, Side};
use crate::tensor::Tensor;

/// A weight as products with T take it.
pub(super) struct Base<'a> {
    weight: &'a Tensor,
    /// In T, unless it is in fewer bits: masters are rounded.
    numbers: Option<Tensor>,
}

/// Matrices side by side, before products with blocks of a weight.
pub(super) struct Facing<'a, T> {
    xs: Vec<Mat<'a, T>>,
    /// What they are rounded to where the weight is int8: token by token, over all of them.
    bytes: Option<Bytes>,
    side: Side,
}

impl<'a> Base<'a> {
    pub(super) fn of<T: Multiply>(weight: &'a Tensor) -> Result<Self> {
        let numbers = match weight.quantised_on_host() {
            Some(_) => None,
            None => Some(weight.to_dtype(T::KIND)?),
        };
        Ok(Self { weight, numbers })
    }

    /// Inputs of the layer, or gradients of some of its outputs, each of which meets a block.
    pub(super) fn facing<'x, T: Multiply>(
        &self,
        xs: Vec<Mat<'x, T>>,
        blocks: &[Block],
        side: Side,
    ) -> Result<Facing<'x, T>> {
        let bytes = match self.weight.quantised_on_host() {
            Some(Quantised::Int8(weight)) => Some(T::rounded(&xs, weight, blocks, side)?),
            _ => None,
        };
        Ok(Facing { xs, bytes, side })
    }

    /// out = Σ x times a block of the weight or its transpose, over these rows of what faces the weight, plus the low-rank
    /// term, which is not rounded to int8.
    pub(super) fn combine<T: Multiply, O: Stored<Compute = T::Compute>>(
        &self,
        out: MatMut<O>,
        x: &Facing<T>,
        rows: &Range<usize>,
        blocks: &[Block],
        low_rank: Option<Product<T>>,
    ) -> Result<()> {
        let Facing { xs, bytes, side } = x;
        let made: Vec<_>;
        let rights: Vec<Right<T>> = match (self.weight.quantised_on_host(), bytes) {
            (Some(Quantised::Int8(weight)), Some(x)) if !blocks.is_empty() => {
                let product = Int8Product { weight, x, rows: rows.clone(), blocks, side: *side };
                return T::multiply_int8(out, &product, low_rank.as_slice());
            }
            (Some(Quantised::Nf4(weight)), _) => {
                made = blocks.iter().map(|block| weight.block(block, *side)).collect();
                made.iter().map(|made| Right::Made(made)).collect()
            }
            _ => self.rights(blocks, *side)?,
        };
        let terms = xs.iter().zip(rights).map(|(x, b)| Term { a: slice(*x, rows), b });
        multiply(out, one::<T>(), &terms.chain(low_rank).collect::<Vec<_>>());
        Ok(())
    }

    fn rights<T: Multiply>(&self, blocks: &[Block], side: Side) -> Result<Vec<Right<'_, T>>> {
        let numbers = self.numbers.as_ref().unwrap_or(self.weight);
        let weight = matrix::<T>(numbers, numbers.last_dim())?;
        let right = |Block { outputs, inputs }: &Block| {
            let block = slice(weight, outputs).slice_cols(inputs);
            Right::Mat(if matches!(side, Side::Forward) { block.t() } else { block })
        };
        Ok(blocks.iter().map(right).collect())
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
