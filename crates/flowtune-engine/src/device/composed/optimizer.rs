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

/// Σ x² of each, added up in f64.
pub(crate) fn sums_of_squares(tensors: &[Tensor]) -> Result<Vec<f64>> {
    let sum = |x: &Tensor| x.to_dtype(DType::F64)?.sqr()?.sum_all();
    let sums = tensors.iter().map(sum).collect::<Result<Vec<_>>>()?;
    if sums.is_empty() { Ok(Vec::new()) } else { Tensor::stack(&sums, 0)?.to_vec1() }
}
