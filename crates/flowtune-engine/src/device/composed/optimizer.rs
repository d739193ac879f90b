//! What optimizers do to float32 buffers.

use candle_core::{DType, Result, Tensor};

/// A weight with the moments of its gradient.
pub(crate) struct Moments {
    pub(crate) weight: Tensor,
    pub(crate) first: Tensor,
    pub(crate) second: Tensor,
}

/// The numbers of one step, as [`crate::ops::optimizer::adamw_step`] derives them.
pub(crate) struct Step {
    pub(crate) step_size: f64,
    pub(crate) inverse_root: f64,
    pub(crate) decay: f64,
    pub(crate) eps: f64,
    pub(crate) one_minus_beta1: f64,
    pub(crate) beta2: f64,
    pub(crate) one_minus_beta2: f64,
}

/// One step of AdamW.
pub(crate) fn adamw(m: &Moments, gradient: &Tensor, s: &Step) -> Result<Moments> {
    let first = (&m.first + ((gradient - &m.first)? * s.one_minus_beta1)?)?;
    let second = ((&m.second * s.beta2)? + (gradient.sqr()? * s.one_minus_beta2)?)?;
    let scale = ((second.sqrt()? * s.inverse_root)? + s.eps)?;
    let weight = ((&m.weight * s.decay)? - ((&first * s.step_size)? / scale)?)?;
    Ok(Moments { weight, first, second })
}

/// Σ x², added up in f64.
pub(crate) fn sum_of_squares(x: &Tensor) -> Result<f64> {
    x.to_dtype(DType::F64)?.sqr()?.sum_all()?.to_scalar()
}
