//! The gated residual connection; shapes as [`crate::Tape::gated_residual`].

use candle_core::{DType, Result, Tensor};

/// x + gate·y.
pub(crate) fn gated_residual(x: &Tensor, gate: &Tensor, y: &Tensor) -> Result<Tensor> {
    x + y.to_dtype(x.dtype())?.broadcast_mul(&gate.unsqueeze(1)?)?
}

/// gate·g in `dtype`, the gradient of y.
pub(crate) fn gated(g: &Tensor, gate: &Tensor, dtype: DType) -> Result<Tensor> {
    g.broadcast_mul(&gate.unsqueeze(1)?)?.to_dtype(dtype)
}

/// Σ_tokens g·y.
pub(crate) fn gate_gradient(y: &Tensor, g: &Tensor) -> Result<Tensor> {
    (g * y.to_dtype(g.dtype())?)?.sum(1)
}
