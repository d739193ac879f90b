//! Attention in chunks of queries, scores in the type of the computation; shapes as [`crate::Tape::attention`].

use candle_core::{D, Result, Tensor};

use super::wide;

/// Scores that are in memory at once: candle's kernels count elements with 32 bits, and memory is short anyway.
const MAX_SCORES: usize = 1 << 27;

/// Output `[batch, queries, heads·head_dim]`, and the log-sum-exp of each query, `[batch, heads, queries, 1]`.
pub(crate) fn attention(q: &Tensor, k: &Tensor, v: &Tensor) -> Result<(Tensor, Tensor)> {
    let (q_heads, k, v) = (heads(q)?, heads(k)?.t()?.contiguous()?, heads(v)?);
    let (mut outputs, mut sums) = (Vec::new(), Vec::new());
    for (start, count) in chunks(&q_heads, k.dim(3)?)? {
        let scores = q_heads.narrow(2, start, count)?.contiguous()?.matmul(&k)?;
        let (p, lse) = softmax(&(scores * scale(q)?)?)?;
        outputs.push(p.matmul(&v)?);
        sums.push(lse);
    }
    let out = tokens(&Tensor::cat(&outputs, 2)?)?.flatten_from(2)?.to_dtype(q.dtype())?;
    Ok((out, Tensor::cat(&sums, 2)?))
}

/// Gradients of q, k and v from the output and its gradient: dV = Pᵀ·g, dS = P∘(g·Vᵀ − rowsum(g∘out)), dQ = scale·dS·K,
/// dK = scale·dSᵀ·Q.
pub(crate) fn attention_backward(
    [q, k, v]: [&Tensor; 3],
    out: &Tensor,
    lse: &Tensor,
    g: &Tensor,
) -> Result<[Tensor; 3]> {
    let (dtype, scale) = (q.dtype(), scale(q)?);
    let (g, out) = (g.reshape(q.shape())?, out.reshape(q.shape())?);
    let [q, k, v, g, out] = [heads(q)?, heads(k)?, heads(v)?, heads(&g)?, heads(&out)?];
    let delta = (&g * out)?.sum_keepdim(D::Minus1)?;
    let (mut dq, mut dk, mut dv) = (Vec::new(), k.zeros_like()?, v.zeros_like()?);
    let (k_t, v_t) = (k.t()?.contiguous()?, v.t()?.contiguous()?);
    for (start, count) in chunks(&q, k.dim(2)?)? {
        let of = |x: &Tensor| x.narrow(2, start, count)?.contiguous();
        let (q, g) = (of(&q)?, of(&g)?);
        let p = (q.matmul(&k_t)? * scale)?.broadcast_sub(&of(lse)?)?.exp()?;
        let ds = (p.clone() * g.matmul(&v_t)?.broadcast_sub(&of(&delta)?)?)?;
        let ds = (ds * scale)?;
        dq.push(ds.matmul(&k)?);
        dk = (dk + ds.t()?.contiguous()?.matmul(&q)?)?;
        dv = (dv + p.t()?.contiguous()?.matmul(&g)?)?;
    }
    let back = |x: &Tensor| tokens(x)?.to_dtype(dtype);
    Ok([back(&Tensor::cat(&dq, 2)?)?, back(&dk)?, back(&dv)?])
}

/// Attention with fewer heads of keys than of queries and, where `hidden` `[batch, 1, queries, keys]` is 1, no score;
/// shapes as [`crate::ops::causal_attention::causal_attention`]. A query that sees nothing comes out as zeros.
pub(crate) fn masked_attention(q: &Tensor, k: &Tensor, v: &Tensor, hidden: Option<&Tensor>) -> Result<Tensor> {
    let repeats = q.dim(2)? / k.dim(2)?;
    let (q_heads, k, v) = (heads(q)?, repeated(&heads(k)?, repeats)?, repeated(&heads(v)?, repeats)?);
    let (mut outputs, k) = (Vec::new(), k.t()?.contiguous()?);
    for (start, count) in chunks(&q_heads, k.dim(3)?)? {
        let scores = (q_heads.narrow(2, start, count)?.contiguous()?.matmul(&k)? * scale(q)?)?;
        let p = match hidden {
            None => softmax(&scores)?.0,
            Some(hidden) => {
                let hidden = hidden.narrow(2, start, count)?.to_dtype(scores.dtype())?;
                let p = softmax(&scores.broadcast_sub(&(&hidden * HIDDEN)?)?)?.0;
                p.broadcast_mul(&(1.0 - hidden)?)?
            }
        };
        outputs.push(p.matmul(&v)?);
    }
    tokens(&Tensor::cat(&outputs, 2)?)?.flatten_from(2)?.to_dtype(q.dtype())
}

/// Far below every score, and finite, so that a query that sees nothing has no NaN.
const HIDDEN: f64 = 1e30;

/// `[batch, tokens, heads, dim]` → `[batch, heads, tokens, dim]` in the type of the computation.
fn heads(x: &Tensor) -> Result<Tensor> {
    wide(x)?.transpose(1, 2)?.contiguous()
}

/// The way back.
fn tokens(x: &Tensor) -> Result<Tensor> {
    x.transpose(1, 2)?.contiguous()
}

/// Each head `repeats` times, side by side.
fn repeated(x: &Tensor, repeats: usize) -> Result<Tensor> {
    let (batch, heads, tokens, dim) = x.dims4()?;
    let wide = x.unsqueeze(2)?.broadcast_as((batch, heads, repeats, tokens, dim))?;
    wide.contiguous()?.reshape((batch, heads * repeats, tokens, dim))
}

fn scale(q: &Tensor) -> Result<f64> {
    Ok((q.dim(D::Minus1)? as f64).sqrt().recip())
}

/// Runs of queries, start and count, of which the scores against `keys` fit.
fn chunks(q: &Tensor, keys: usize) -> Result<Vec<(usize, usize)>> {
    let (batch, heads, queries, _) = q.dims4()?;
    let rows = (MAX_SCORES / (batch * heads * keys).max(1)).clamp(1, queries.max(1));
    Ok((0..queries).step_by(rows).map(|start| (start, rows.min(queries - start))).collect())
}

/// Probabilities and log-sum-exp of the last dimension.
fn softmax(scores: &Tensor) -> Result<(Tensor, Tensor)> {
    let max = scores.max_keepdim(D::Minus1)?;
    let p = scores.broadcast_sub(&max)?.exp()?;
    let sum = p.sum_keepdim(D::Minus1)?;
    Ok((p.broadcast_div(&sum)?, (max + sum.log()?)?))
}
