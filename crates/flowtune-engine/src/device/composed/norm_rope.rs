//! RMSNorm of each head and the rotary embedding; shapes as [`crate::Tape::rms_norm_rope`].

use candle_core::{D, Result, Tensor};

use super::norm::rms_normed;
use super::wide;

/// The angles' cosines and sines, `[1 or batch, tokens, head_dim / 2]`.
pub(crate) struct Rope {
    pub(crate) cos: Tensor,
    pub(crate) sin: Tensor,
}

impl Rope {
    /// Each pair of x by its angle, or back: x `[batch, tokens, heads, head_dim]`.
    fn turned(&self, x: &Tensor, back: bool) -> Result<Tensor> {
        let (batch, tokens, heads, dim) = x.dims4()?;
        let pairs = x.reshape((batch, tokens, heads, dim / 2, 2))?;
        let of = |i: usize| pairs.narrow(4, i, 1)?.squeeze(4)?.contiguous();
        let (a, b) = (of(0)?, of(1)?);
        let cos = self.cos.unsqueeze(2)?;
        let sin = if back { self.sin.neg()? } else { self.sin.clone() }.unsqueeze(2)?;
        let first = (a.broadcast_mul(&cos)? - b.broadcast_mul(&sin)?)?;
        let second = (b.broadcast_mul(&cos)? + a.broadcast_mul(&sin)?)?;
        Tensor::stack(&[first, second], 4)?.reshape((batch, tokens, heads, dim))
    }
}

/// Each pair (xᵢ, xᵢ₊ₕ) by its angle; shapes as [`crate::ops::causal_attention::rope_half_split`].
pub(crate) fn rope_half_split(x: &Tensor, cos: &Tensor, sin: &Tensor) -> Result<Tensor> {
    let half = x.dim(3)? / 2;
    let (a, b) = (x.narrow(3, 0, half)?, x.narrow(3, half, half)?);
    let (cos, sin) = (cos.unsqueeze(2)?, sin.unsqueeze(2)?);
    let low = (a.broadcast_mul(&cos)? - b.broadcast_mul(&sin)?)?;
    let high = (b.broadcast_mul(&cos)? + a.broadcast_mul(&sin)?)?;
    Tensor::cat(&[low, high], 3)
}

/// Normed, times the weight, turned.
pub(crate) fn rms_norm_rope(x: &Tensor, weight: &Tensor, rope: &Rope, eps: f64) -> Result<Tensor> {
    let normed = rms_normed(&wide(x)?, eps)?.0.broadcast_mul(weight)?;
    rope.turned(&normed, false)?.to_dtype(x.dtype())
}

/// With u = g turned back, times the weight: r·(u − x·r²·mean(u·x)).
pub(crate) fn rms_norm_rope_input_gradient(
    x: &Tensor,
    weight: &Tensor,
    rope: &Rope,
    g: &Tensor,
    eps: f64,
) -> Result<Tensor> {
    let (normed, r) = rms_normed(&wide(x)?, eps)?;
    let u = rope.turned(&wide(g)?, true)?.broadcast_mul(weight)?;
    let along = (&u * &normed)?.mean_keepdim(D::Minus1)?;
    (u - normed.broadcast_mul(&along)?)?.broadcast_mul(&r)?.to_dtype(x.dtype())
}

/// Σ over tokens and heads of x·r times g turned back.
pub(crate) fn rms_norm_rope_weight_gradient(x: &Tensor, rope: &Rope, g: &Tensor, eps: f64) -> Result<Tensor> {
    let normed = rms_normed(&wide(x)?, eps)?.0;
    (normed * rope.turned(&wide(g)?, true)?)?.sum((0, 1, 2))
}
