//! The fused operations as CUDA kernels (`kernels/*.cu`), one function for each, over plain buffers.
//!
//! A function checks extents, says how many blocks of how many threads there are, and hands the launch to a [`Launcher`]:
//! candle's CUDA device, or the emulator that runs the same sources on the CPU. None waits for its result, and none
//! allocates but for the partial sums of reductions, which go through two kernels so that their order is fixed.
//! Products of matrices are cuBLAS's, on the CPU this crate's own.
//! Formulas and types are those of [`crate::ops`]: what is added up or small stays float32 where values are bfloat16.

mod attention;
mod buffer;
#[cfg(feature = "cuda")]
mod cuda;
#[cfg(feature = "emulate")]
mod emulated;
mod grid;
mod launch;
mod loss;
mod norm;
mod norm_rope;
mod optimizer;
mod optimizer8;
mod product;
mod quant;
mod residual;
mod sums;
mod swiglu;

pub use attention::{
    ChunkRows, Heads, probabilities, probabilities_in_place, row_products, score_gradient, score_gradient_in_place,
    softmax, softmax_in_place,
};
pub use buffer::{Value, View, ViewMut};
#[cfg(feature = "cuda")]
pub use cuda::Cuda;
#[cfg(feature = "emulate")]
pub use emulated::Emulated;
pub use grid::Grid;
pub use launch::{Arg, Kernel, Launcher};
pub use loss::{weighted_mse, weighted_mse_dx};
pub use norm::{Modulated, layer_norm_modulate, layer_norm_modulate_dx, layer_norm_modulation_gradient};
pub use norm_rope::{RopeHeads, rms_norm_rope, rms_norm_rope_dw, rms_norm_rope_dx};
pub use optimizer::{adamw, clip, scale, sum, sum_of_squares};
pub use optimizer8::{MOMENTS_PER_SCALE, Moments8, adamw8, dynamic_table};
pub use product::{ColumnMajor, Factor, Kind, Layout, Operand, Product, product};
pub use quant::{int8_rows, nf4, stochastic_round};
pub use residual::{gated_residual, gated_residual_dy, gated_residual_gate_gradient};
pub use swiglu::{swiglu, swiglu_dx};
