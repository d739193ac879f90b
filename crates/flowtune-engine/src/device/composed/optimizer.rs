//! What optimizers do to float32 buffers.

use candle_core::{DType, Result, Tensor};

use crate::ops::optimizer::AdamWStep;

/// Weight and moments after a step of AdamW, as [`crate::ops::optimizer::adamw_step`].
pub(crate) fn adamw([weight, first, second]: [&Tensor; 3], gradient: &Tensor, s: AdamWStep) -> Result<[Tensor; 3]> {
    let first = (first + ((gradient - first)? * f64::from(s.one_minus_beta1))?)?;
    let second = ((second * f64::from(s.beta2))? + (gradient.sqr()? * f64::from(s.one_minus_beta2))?)?;
    let root = ((second.sqrt()? * f64::from(s.inverse_root))? + f64::from(s.eps))?;
    let weight = ((weight * f64::from(s.decay))? - ((&first * f64::from(s.step_size))? / root)?)?;
    Ok([weight, first, second])
}

/// Σ x², added up in f64.
pub(crate) fn sum_of_squares(x: &Tensor) -> Result<f64> {
    x.to_dtype(DType::F64)?.sqr()?.sum_all()?.to_scalar()
}
