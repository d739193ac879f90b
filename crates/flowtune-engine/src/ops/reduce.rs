//! Sums and means over dimensions, added up in f64.

use crate::cpu::strided::{self, Walk, repeated, row_major};
use crate::device::{self, composed};
use crate::dtype::with_real;
use crate::error::{Result, shape_error};
use crate::ops::broadcast::broadcast_to;
use crate::tape::{Tape, Var};
use crate::tensor::Tensor;

impl Tape {
    /// Σ x over `dims`; these keep extent 1 with `keep_dims`, and are gone without.
    ///
    /// # Errors
    /// `SHAPE_MISMATCH` when x has no such dimension.
    pub fn sum(&self, x: &Var, dims: &[usize], keep_dims: bool) -> Result<Var> {
        let shape = x.tensor().shape().to_vec();
        if let Some(dim) = dims.iter().find(|dim| **dim >= shape.len()) {
            return Err(shape_error("sum", "x", format!("with a dimension {dim}"), &shape));
        }
        let extent = |i: usize| if dims.contains(&i) { 1 } else { shape[i] };
        let kept: Vec<usize> = (0..shape.len()).map(extent).collect();
        let left: Vec<usize> = (0..shape.len()).filter(|i| !dims.contains(i)).map(|i| shape[i]).collect();
        let value = sum_to(x.tensor(), &kept)?.reshape(if keep_dims { &kept } else { &left })?;
        Ok(self.record(&[x], value, |_| move |g: Tensor| Ok(vec![Some(broadcast_to(&g.reshape(&kept)?, &shape)?)])))
    }

    /// Mean of x over `dims`, as [`Tape::sum`].
    ///
    /// # Errors
    /// `SHAPE_MISMATCH` when x has no such dimension.
    pub fn mean(&self, x: &Var, dims: &[usize], keep_dims: bool) -> Result<Var> {
        let sum = self.sum(x, dims, keep_dims)?;
        let count = x.tensor().len() as f64 / sum.tensor().len().max(1) as f64;
        self.scale(&sum, 1.0 / count)
    }
}

/// Sums over the dimensions along which a tensor of `shape` was repeated to the shape of x. Shares storage when nothing
/// was repeated.
///
/// # Errors
/// When x is not floating.
pub(crate) fn sum_to(x: &Tensor, shape: &[usize]) -> Result<Tensor> {
    if x.len() == shape.iter().product::<usize>() {
        return x.reshape(shape);
    }
    if let Some((on, [x])) = device::operands("sum", [x])? {
        return device::made(on, composed::sum_to(&x, shape));
    }
    with_real!(x.dtype(), "sum", T => {
        let walk = Walk::new(x.shape(), [row_major(x.shape()), repeated(shape, x.shape())]);
        Ok(Tensor::new(strided::sum(x.as_slice::<T>()?, shape.iter().product(), &walk), shape))
    })
}
