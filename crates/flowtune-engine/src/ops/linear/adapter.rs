//! The matrices of a low-rank addition, for products with activations in T.

use std::ops::Range;

use super::roundings::{Factor, Roundings, joined};
use crate::cpu::mat::Mat;
use crate::dtype::{Element, Real, Stored};
use crate::error::Result;
use crate::tensor::Tensor;

pub(super) struct Adapter<T: Stored> {
    pub(super) rank: usize,
    inputs: usize,
    pub(super) scale: T::Compute,
    /// All of A as one row, so that its roundings lie one below the other.
    a: Roundings<T>,
    b: Roundings<T>,
}

impl<T: Stored> Adapter<T> {
    /// Of A `[rank, inputs]` and B `[outputs, rank]`.
    pub(super) fn of(a: &Tensor, b: &Tensor, scale: f64) -> Result<Self> {
        let wide = |x: &Tensor| x.to_dtype(<T::Compute as Element>::KIND);
        let (a, b) = (wide(a)?, wide(b)?);
        Ok(Self {
            rank: b.last_dim(),
            inputs: a.last_dim(),
            scale: T::Compute::of(scale),
            a: Roundings::of(a.as_slice()?, a.len(), Factor::Right),
            b: Roundings::of(b.as_slice()?, b.last_dim(), Factor::Right),
        })
    }

    /// For products that are to be exact, these inputs of A: `[roundings side by side·rank, inputs]`.
    pub(super) fn a_all(&self, inputs: &Range<usize>) -> Mat<'_, T> {
        self.below(self.a.all(), inputs)
    }

    /// Each rounding once: `[roundings·rank, inputs]`.
    pub(super) fn a_once(&self, inputs: &Range<usize>) -> Mat<'_, T> {
        self.below(self.a.once(), inputs)
    }

    /// As [`Adapter::a_all`], of B: `[outputs, roundings side by side·rank]`.
    pub(super) fn b_all(&self, outputs: &Range<usize>) -> Mat<'_, T> {
        self.b.all().slice_rows(outputs.start, outputs.len())
    }

    /// Each rounding once: `[outputs, roundings·rank]`.
    pub(super) fn b_once(&self, outputs: &Range<usize>) -> Mat<'_, T> {
        self.b.once().slice_rows(outputs.start, outputs.len())
    }

    /// Columns of the products with what has each rounding once.
    pub(super) fn once(&self) -> usize {
        self.b.once().cols()
    }

    /// Products with what has each rounding once, `[rows, roundings·rank]`, as a left factor, `[rows, rank]`.
    pub(super) fn narrow(&self, products: Vec<T::Compute>) -> Roundings<T> {
        Roundings::of(&joined::<T>(products, self.rank), self.rank, Factor::Left)
    }

    /// The row of A's roundings as rows.
    fn below<'a>(&self, row: Mat<'a, T>, inputs: &Range<usize>) -> Mat<'a, T> {
        Mat::new(row.row(0), row.cols() / self.inputs.max(1), self.inputs).slice_cols(inputs)
    }
}
