//! The operations that some devices have kernels for: fused there, composed elsewhere.

use candle_core::{DType, Tensor as Twin};

use super::composed::{self, Rope};
use super::{Kernels, made, made_some};
use crate::error::Result;
use crate::ops::optimizer::AdamWStep;
use crate::tensor::Tensor;

/// What the kernels make of it, where there are any that do.
macro_rules! fused {
    ($kernels:expr, $call:expr) => {
        #[cfg(any(feature = "emulate", feature = "cuda"))]
        if let Some(result) = $call {
            return made($kernels, Ok(result?));
        }
    };
}

pub(crate) fn gated_residual(kernels: Kernels, x: &Twin, gate: &Twin, y: &Twin) -> Result<Tensor> {
    fused!(kernels, super::fused::gated_residual(kernels, x, gate, y));
    made(kernels, composed::gated_residual(x, gate, y))
}

pub(crate) fn gated(kernels: Kernels, g: &Twin, gate: &Twin, dtype: DType) -> Result<Tensor> {
    fused!(kernels, super::fused::gated(kernels, g, gate, dtype));
    made(kernels, composed::gated(g, gate, dtype))
}

pub(crate) fn gate_gradient(kernels: Kernels, y: &Twin, g: &Twin) -> Result<Tensor> {
    fused!(kernels, super::fused::gate_gradient(kernels, y, g));
    made(kernels, composed::gate_gradient(y, g))
}

pub(crate) fn swiglu(kernels: Kernels, x: &Twin) -> Result<Tensor> {
    fused!(kernels, super::fused::swiglu(kernels, x));
    made(kernels, composed::swiglu(x))
}

pub(crate) fn swiglu_backward(kernels: Kernels, x: &Twin, g: &Twin) -> Result<Tensor> {
    fused!(kernels, super::fused::swiglu_backward(kernels, x, g));
    made(kernels, composed::swiglu_backward(x, g))
}

pub(crate) fn layer_norm_modulate(
    kernels: Kernels,
    [x, scale, shift]: [&Twin; 3],
    eps: f64,
    dtype: DType,
) -> Result<Tensor> {
    fused!(kernels, super::fused::layer_norm_modulate(kernels, [x, scale, shift], eps, dtype));
    made(kernels, composed::layer_norm_modulate(x, scale, shift, eps, dtype))
}

pub(crate) fn layer_norm_modulate_backward(
    kernels: Kernels,
    [x, scale, g]: [&Twin; 3],
    eps: f64,
    needs: &[bool],
) -> Result<Vec<Option<Tensor>>> {
    #[cfg(any(feature = "emulate", feature = "cuda"))]
    if let Some(gradients) = super::fused::layer_norm_modulate_backward(kernels, [x, scale, g], eps, needs) {
        return gradients?.into_iter().map(|gradient| made_some(kernels, gradient)).collect();
    }
    let gradients = composed::layer_norm_modulate_backward(x, scale, g, eps, needs)?;
    gradients.into_iter().map(|gradient| made_some(kernels, gradient)).collect()
}

pub(crate) fn rms_norm_rope(kernels: Kernels, x: &Twin, weight: &Twin, rope: &Rope, eps: f64) -> Result<Tensor> {
    fused!(kernels, super::fused::rms_norm_rope(kernels, x, weight, rope, eps));
    made(kernels, composed::rms_norm_rope(x, weight, rope, eps))
}

pub(crate) fn rms_norm_rope_input_gradient(
    kernels: Kernels,
    [x, weight, g]: [&Twin; 3],
    rope: &Rope,
    eps: f64,
) -> Result<Tensor> {
    fused!(kernels, super::fused::rms_norm_rope_input_gradient(kernels, [x, weight, g], rope, eps));
    made(kernels, composed::rms_norm_rope_input_gradient(x, weight, rope, g, eps))
}

pub(crate) fn rms_norm_rope_weight_gradient(
    kernels: Kernels,
    x: &Twin,
    rope: &Rope,
    g: &Twin,
    eps: f64,
) -> Result<Tensor> {
    fused!(kernels, super::fused::rms_norm_rope_weight_gradient(kernels, x, rope, g, eps));
    made(kernels, composed::rms_norm_rope_weight_gradient(x, rope, g, eps))
}

/// Weight and moments after a step of AdamW.
pub(crate) fn adamw(
    kernels: Kernels,
    [weight, first, second]: [&Twin; 3],
    gradient: &Twin,
    step: AdamWStep,
) -> Result<[Tensor; 3]> {
    #[cfg(any(feature = "emulate", feature = "cuda"))]
    if let Some(moved) = super::fused::adamw(kernels, [weight, first, second], gradient, step) {
        let [weight, first, second] = moved?;
        return Ok([made(kernels, Ok(weight))?, made(kernels, Ok(first))?, made(kernels, Ok(second))?]);
    }
    let [weight, first, second] = composed::adamw([weight, first, second], gradient, step)?;
    Ok([made(kernels, Ok(weight))?, made(kernels, Ok(first))?, made(kernels, Ok(second))?])
}

/// Σ x², a number of the host.
pub(crate) fn sum_of_squares(kernels: Kernels, x: &Twin) -> Result<f64> {
    #[cfg(any(feature = "emulate", feature = "cuda"))]
    if let Some(sum) = super::fused::sum_of_squares(kernels, x) {
        return sum;
    }
    let _ = kernels;
    Ok(composed::sum_of_squares(x)?)
}
