//! Building blocks of the CPU kernels.

pub(crate) mod gemm;
pub(crate) mod instructions;
pub(crate) mod lanes;
pub(crate) mod mat;
pub(crate) mod memory;
pub(crate) mod parallel;
pub(crate) mod product;
pub(crate) mod simd;
pub(crate) mod strided;
mod team;
