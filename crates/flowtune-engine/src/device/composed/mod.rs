//! The operations as compositions of candle's: on any device that candle has. Sums and moments are in float32 where values
//! are bfloat16, as on the CPU.

mod attention;
mod convolution;
mod layout;
mod linear;
mod loss;
mod matmul;
mod norm;
mod norm_rope;
mod optimizer;
mod pairs;
mod product;
mod quant;
mod residual;

pub(crate) use attention::{attention, attention_backward, masked_attention};
pub(crate) use convolution::{conv2d, group_norm, upsample_nearest_2x};
pub(crate) use layout::{broadcast_to, cut, embedding, join, permute, sum_to, swap};
pub(crate) use linear::{LowRank, linear, linear_backward};
pub(crate) use loss::{interpolate, weighted_squares, weighted_squares_gradient, weighted_sum, weighted_sum_gradient};
pub(crate) use matmul::{left_gradient, matmul, right_gradient};
pub(crate) use norm::{layer_norm_modulate, layer_norm_modulate_backward, rms_norm};
pub(crate) use norm_rope::{
    Rope, rms_norm_rope, rms_norm_rope_input_gradient, rms_norm_rope_weight_gradient, rope_half_split,
};
pub(crate) use optimizer::{adamw, sums_of_squares};
pub(crate) use pairs::{sigmoid, silu, silu_backward, swiglu, swiglu_backward};
pub(crate) use quant::{int8_rows, nf4};
pub(crate) use residual::{gate_gradient, gated, gated_residual};

use candle_core::{DType, Result, Tensor};

/// In which type values of `dtype` are computed.
fn compute(dtype: DType) -> DType {
    match dtype {
        DType::BF16 | DType::F16 => DType::F32,
        other => other,
    }
}

/// In the type in which it is computed.
fn wide(x: &Tensor) -> Result<Tensor> {
    x.to_dtype(compute(x.dtype()))
}
