//! What optimizers do to float32 buffers.

use candle_core::{DType, Result, Tensor};

use crate::ops::optimizer::AdamW;

/// Weight and moments after step `step` of AdamW, as [`crate::ops::optimizer::adamw_step`].
pub(crate) fn adamw(
    [weight, first, second]: [&Tensor; 3],
    gradient: &Tensor,
    o: AdamW,
    step: u64,
) -> Result<[Tensor; 3]> {
    let exponent = i32::try_from(step).unwrap_or(i32::MAX);
    let first = (first + ((gradient - first)? * (1.0 - o.beta1))?)?;
    let second = ((second * o.beta2)? + (gradient.sqr()? * (1.0 - o.beta2))?)?;
    let root = ((second.sqrt()? / (1.0 - o.beta2.powi(exponent)).sqrt())? + o.eps)?;
    let change = ((&first * (o.lr / (1.0 - o.beta1.powi(exponent))))? / root)?;
    let weight = ((weight * (1.0 - o.lr * o.weight_decay))? - change)?;
    Ok([weight, first, second])
}

/// Σ x², added up in f64.
pub(crate) fn sum_of_squares(x: &Tensor) -> Result<f64> {
    x.to_dtype(DType::F64)?.sqr()?.sum_all()?.to_scalar()
}
