//! The operations that some devices have kernels for: fused there, composed elsewhere.

use candle_core::{DType, Tensor as Twin};

use super::composed::{self, LowRank, Rope};
use super::weight::Weight;
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

/// The same of what is not made a tensor here.
macro_rules! plain {
    ($kernels:expr, $call:expr, $composed:expr) => {{
        #[cfg(any(feature = "emulate", feature = "cuda"))]
        if let Some(result) = $call {
            return result;
        }
        let _ = $kernels;
        Ok($composed?)
    }};
}

/// Output and log-sum-exp, for [`attention_backward`].
pub(crate) fn attention(kernels: Kernels, [q, k, v]: [&Twin; 3]) -> Result<(Twin, Twin)> {
    plain!(kernels, super::fused::attention(kernels, q, k, v), composed::attention(q, k, v))
}

pub(crate) fn attention_backward(
    kernels: Kernels,
    qkv: [&Twin; 3],
    out: &Twin,
    lse: &Twin,
    g: &Twin,
) -> Result<[Tensor; 3]> {
    #[cfg(any(feature = "emulate", feature = "cuda"))]
    if let Some(gradients) = super::fused::attention_backward(kernels, qkv, out, lse, g) {
        return all_made(kernels, gradients?);
    }
    all_made(kernels, composed::attention_backward(qkv, out, lse, g)?)
}

fn all_made(kernels: Kernels, [a, b, c]: [Twin; 3]) -> Result<[Tensor; 3]> {
    Ok([made(kernels, Ok(a))?, made(kernels, Ok(b))?, made(kernels, Ok(c))?])
}

pub(crate) fn linear(
    kernels: Kernels,
    x: &Twin,
    weight: &Weight,
    low_rank: Option<&LowRank>,
    dtype: DType,
) -> Result<Tensor> {
    let weight = weight.for_product("linear", kernels, x)?;
    fused!(kernels, super::fused::linear(kernels, x, &weight, low_rank, dtype));
    made(kernels, composed::linear(x, &weight, low_rank, dtype))
}

pub(crate) fn linear_backward(
    kernels: Kernels,
    x: Option<&Twin>,
    weight: &Weight,
    low_rank: Option<&LowRank>,
    g: &Twin,
    needs: &[bool],
) -> Result<Vec<Option<Tensor>>> {
    let weight = weight.for_product("linear", kernels, g)?;
    let some = |gradients: Vec<Option<Twin>>| gradients.into_iter().map(|x| made_some(kernels, x)).collect();
    #[cfg(any(feature = "emulate", feature = "cuda"))]
    if let Some(gradients) = super::fused::linear_backward(kernels, x, &weight, low_rank, g, needs) {
        return some(gradients?);
    }
    some(composed::linear_backward(x, &weight, low_rank, g, needs)?)
}

/// Bytes times the scale of their row: codes `[rows, cols]` in two's complement, scales `[rows]`.
pub(crate) fn int8_rows(kernels: Kernels, codes: &Twin, scales: &Twin, dtype: DType) -> Result<Twin> {
    plain!(kernels, super::fused::int8_rows(kernels, codes, scales, dtype), composed::int8_rows(codes, scales, dtype))
}

/// nf4 as a matrix of `extents`: codes two in a byte, scales one for each 64, values `[16]`.
pub(crate) fn nf4(kernels: Kernels, parts: [&Twin; 3], extents: [usize; 2], dtype: DType) -> Result<Twin> {
    plain!(kernels, super::fused::nf4(kernels, parts, extents, dtype), composed::nf4(parts, extents, dtype))
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

/// The weight after a step of AdamW; the moments are changed.
pub(crate) fn adamw(
    kernels: Kernels,
    weight: &Twin,
    gradient: &Twin,
    [first, second]: [&mut Tensor; 2],
    step: AdamWStep,
) -> Result<Tensor> {
    let moments = [first.unshared()?, second.unshared()?];
    #[cfg(any(feature = "emulate", feature = "cuda"))]
    if let Some(moved) = super::fused::adamw(kernels, weight, gradient, moments.each_ref(), step) {
        return made(kernels, Ok(moved?));
    }
    let [m, v] = moments.each_ref();
    let [weight, m, v] = all_made(kernels, composed::adamw([weight, m, v], gradient, step)?)?;
    (*first, *second) = (m, v);
    Ok(weight)
}

/// Σ x² of each, numbers of the host.
pub(crate) fn sums_of_squares(kernels: Kernels, tensors: &[Twin]) -> Result<Vec<f64>> {
    plain!(kernels, super::fused::sums_of_squares(kernels, tensors), composed::sums_of_squares(tensors))
}
