//! silu and SwiGLU; shapes as [`crate::Tape::swiglu`].

use candle_core::{Result, Tensor};

use super::wide;

/// x · sigmoid(x).
pub(crate) fn silu(x: &Tensor) -> Result<Tensor> {
    let wide = wide(x)?;
    (&wide * sigmoid(&wide)?)?.to_dtype(x.dtype())
}

/// g · d silu(x) / dx.
pub(crate) fn silu_backward(x: &Tensor, g: &Tensor) -> Result<Tensor> {
    silu_gradient(&wide(x)?, &wide(g)?)?.to_dtype(x.dtype())
}

/// silu(first half)·second half of the last dimension.
pub(crate) fn swiglu(x: &Tensor) -> Result<Tensor> {
    let [gate, up] = halves(x)?;
    ((&gate * sigmoid(&gate)?)? * up)?.to_dtype(x.dtype())
}

/// Gradient of both halves.
pub(crate) fn swiglu_backward(x: &Tensor, g: &Tensor) -> Result<Tensor> {
    let ([gate, up], g) = (halves(x)?, wide(g)?);
    let d_gate = silu_gradient(&gate, &(&g * up)?)?;
    let d_up = ((g * &gate)? * sigmoid(&gate)?)?;
    Tensor::cat(&[d_gate, d_up], x.rank() - 1)?.to_dtype(x.dtype())
}

fn halves(x: &Tensor) -> Result<[Tensor; 2]> {
    let (x, last) = (wide(x)?, x.rank() - 1);
    let half = x.dim(last)? / 2;
    Ok([x.narrow(last, 0, half)?.contiguous()?, x.narrow(last, half, half)?.contiguous()?])
}

/// 1 / (1 + e^−x).
pub(crate) fn sigmoid(x: &Tensor) -> Result<Tensor> {
    (x.neg()?.exp()? + 1.0)?.recip()
}

/// g·s·(1 + x·(1 − s)), s = sigmoid(x).
fn silu_gradient(x: &Tensor, g: &Tensor) -> Result<Tensor> {
    let s = sigmoid(x)?;
    let slope = ((x * (1.0 - &s)?)? + 1.0)?;
    (g * s)? * slope
}
