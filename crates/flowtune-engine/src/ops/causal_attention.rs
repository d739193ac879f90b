//! Attention for text encoders and the VAE, forward only: grouped queries, a causal or no mask, padded keys.

use super::rope::RopeTable;
use crate::cpu::gemm::{Multiply, gemm};
use crate::cpu::mat::{Mat, MatMut, Threads, Write};
use crate::cpu::{lanes, parallel};
use crate::device::{self, Device, composed};
use crate::dtype::{Real, with_real};
use crate::error::{Result, shape_error};
use crate::tensor::Tensor;

/// Queries whose scores are in memory at once, per thread.
const QUERY_CHUNK: usize = 64;

/// softmax(q·kᵀ/√head_dim)·v where token i sees tokens 0..=i: q `[batch, tokens, heads, head_dim]`, k and v
/// `[batch, tokens, kv_heads, head_dim]` (each serves heads / kv_heads adjacent heads) →
/// `[batch, tokens, heads·head_dim]`. `key_mask` int64 `[batch, tokens]` hides tokens that are 0. A token that
/// sees nothing comes out as zeros, as in PyTorch's `scaled_dot_product_attention`.
///
/// # Errors
/// `SHAPE_MISMATCH` when the extents do not fit.
pub fn causal_attention(q: &Tensor, k: &Tensor, v: &Tensor, key_mask: Option<&Tensor>) -> Result<Tensor> {
    let d = Dims::of(q, k, v)?;
    if d.tokens != d.keys {
        return Err(shape_error("causal_attention", "k", format!("[.., {}, .., ..]", d.tokens), k.shape()));
    }
    if let Some(mask) = key_mask.filter(|m| m.shape() != [d.batch, d.keys]) {
        let expected = format!("[{}, {}]", d.batch, d.keys);
        return Err(shape_error("causal_attention", "key_mask", expected, mask.shape()));
    }
    if let Some((on, [q, k, v])) = device::operands("causal_attention", [q, k, v])? {
        let hidden = hidden(key_mask, d)?.to_device(&Device::of(&q, on))?.on_device()?;
        return device::made(on, composed::masked_attention(&q, &k, &v, hidden.as_ref().map(|hidden| &hidden.twin)));
    }
    let mask = key_mask.map(|m| m.as_slice::<i64>()).transpose()?;
    with_real!(q.dtype(), "causal_attention", T => forward::<T>(q, k, v, mask, true, d))
}

/// Attention in which every token sees every key; shapes as [`causal_attention`]. Unlike
/// [`crate::Tape::attention`] it divides the queries among threads, so that one head uses all of them.
///
/// # Errors
/// `SHAPE_MISMATCH` when the extents do not fit.
pub fn full_attention(q: &Tensor, k: &Tensor, v: &Tensor) -> Result<Tensor> {
    let d = Dims::of(q, k, v)?;
    if let Some((on, [q, k, v])) = device::operands("full_attention", [q, k, v])? {
        return device::made(on, composed::masked_attention(&q, &k, &v, None));
    }
    with_real!(q.dtype(), "full_attention", T => forward::<T>(q, k, v, None, false, d))
}

/// 1 where a query `[batch, 1, tokens, keys]` does not see a key: what comes after it, and what `key_mask` hides.
fn hidden(key_mask: Option<&Tensor>, d: Dims) -> Result<Tensor> {
    let here = key_mask.map(|mask| mask.to_device(&Device::cpu())).transpose()?;
    let mask = here.as_ref().map(|mask| mask.as_slice::<i64>()).transpose()?;
    let is_hidden = |b: usize, i: usize, j: usize| j > i || mask.is_some_and(|mask| mask[b * d.keys + j] == 0);
    let rows = (0..d.batch).flat_map(|b| (0..d.tokens).map(move |i| (b, i)));
    let values = rows.flat_map(|(b, i)| (0..d.keys).map(move |j| (b, i, j)));
    let values = values.map(|(b, i, j)| if is_hidden(b, i, j) { 1f32 } else { 0.0 }).collect();
    Tensor::from_vec(values, &[d.batch, 1, d.tokens, d.keys])
}

#[derive(Clone, Copy)]
struct Dims {
    batch: usize,
    tokens: usize,
    keys: usize,
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
}

impl Dims {
    fn of(q: &Tensor, k: &Tensor, v: &Tensor) -> Result<Self> {
        let &[batch, tokens, heads, head_dim] = q.shape() else {
            return Err(shape_error("attention", "q", "[batch, tokens, heads, head_dim]", q.shape()));
        };
        let kv_heads = k.shape().get(2).copied().unwrap_or(0);
        let fits = k.shape().len() == 4 && k.dim(0) == batch && k.dim(3) == head_dim;
        if !fits || kv_heads == 0 || !heads.is_multiple_of(kv_heads) {
            let expected = format!("[{batch}, keys, a divisor of {heads}, {head_dim}]");
            return Err(shape_error("attention", "k", expected, k.shape()));
        }
        if v.shape() != k.shape() {
            return Err(shape_error("attention", "v", format!("{:?}", k.shape()), v.shape()));
        }
        Ok(Self { batch, tokens, keys: k.dim(1), heads, kv_heads, head_dim })
    }
}

fn forward<T: Real + Multiply>(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    mask: Option<&[i64]>,
    causal: bool,
    d: Dims,
) -> Result<Tensor> {
    let (q, k, v) = (q.as_slice::<T>()?, k.as_slice::<T>()?, v.as_slice::<T>()?);
    let width = d.heads * d.head_dim;
    let mut out = vec![T::zero(); d.batch * d.tokens * width];
    let mut chunks = Vec::new();
    for (b, out) in out.chunks_mut((d.tokens * width).max(1)).enumerate() {
        chunks.extend(out.chunks_mut(QUERY_CHUNK * width).enumerate().map(|(i, out)| (b, i * QUERY_CHUNK, out)));
    }
    parallel::each(chunks, |_, (b, start, out)| {
        let q = &q[b * d.tokens * width..][..d.tokens * width];
        let kv = d.keys * d.kv_heads * d.head_dim;
        let sample = Sample { q, k: &k[b * kv..][..kv], v: &v[b * kv..][..kv], mask: mask.map(|m| &m[b * d.keys..]) };
        let rows = out.len() / width;
        let seen = if causal { start + rows } else { d.keys };
        let mut scores = vec![T::zero(); rows * seen];
        for head in 0..d.heads {
            sample.head(head, start, causal, &mut scores, out, d);
        }
    });
    Ok(Tensor::new(out, &[d.batch, d.tokens, width]))
}

struct Sample<'a, T> {
    q: &'a [T],
    k: &'a [T],
    v: &'a [T],
    mask: Option<&'a [i64]>,
}

impl<T: Real + Multiply> Sample<'_, T> {
    /// Output rows `start..` of one head into its columns of `out`; `scores` is `[rows, keys that any row sees]`.
    fn head(&self, head: usize, start: usize, causal: bool, scores: &mut [T], out: &mut [T], d: Dims) {
        let (width, kv_width) = (d.heads * d.head_dim, d.kv_heads * d.head_dim);
        let rows = out.len() / width;
        let seen = scores.len() / rows;
        let at = head * d.kv_heads / d.heads * d.head_dim;
        let q = Mat::strided(&self.q[start * width + head * d.head_dim..], rows, d.head_dim, width);
        let k = Mat::strided(&self.k[at..], seen, d.head_dim, kv_width);
        let v = Mat::strided(&self.v[at..], seen, d.head_dim, kv_width);
        let scale = T::of((d.head_dim as f64).sqrt().recip());
        gemm(MatMut::new(scores, seen), Write::Set, scale, q, k.t(), Threads::One);
        for (i, row) in scores.chunks_exact_mut(seen.max(1)).enumerate() {
            let visible = if causal { start + i + 1 } else { seen };
            row[visible..].fill(T::zero());
            softmax(&mut row[..visible], self.mask);
        }
        let p = Mat::new(scores, rows, seen);
        gemm(
            MatMut::strided(&mut out[head * d.head_dim..], rows, d.head_dim, width),
            Write::Set,
            T::one(),
            p,
            v,
            Threads::One,
        );
    }
}

/// Probabilities over the keys that the mask leaves; zeros when it leaves none.
fn softmax<T: Real>(row: &mut [T], mask: Option<&[i64]>) {
    if let Some(mask) = mask {
        row.iter_mut().zip(mask).filter(|(_, m)| **m == 0).for_each(|(x, _)| *x = T::neg_infinity());
    }
    let max = lanes::max(row);
    if max == T::neg_infinity() {
        return row.fill(T::zero());
    }
    row.iter_mut().for_each(|x| *x = (*x - max).exp_fast());
    if let Some(mask) = mask {
        // The fast exponential of −∞ is tiny, not zero.
        row.iter_mut().zip(mask).filter(|(_, m)| **m == 0).for_each(|(x, _)| *x = T::zero());
    }
    let inverse = lanes::sum(row).recip();
    row.iter_mut().for_each(|x| *x *= inverse);
}

/// cos and sin for positions 0..tokens, `[1, tokens, head_dim / 2]` float32: angle i of position p is
/// p·theta^(−2i/head_dim), in float32 as transformers `modeling_rope_utils.py` has it.
pub fn rope_table(tokens: usize, head_dim: usize, theta: f64) -> RopeTable {
    let half = head_dim / 2;
    let frequency = |i: usize| 1.0 / (theta as f32).powf((2 * i) as f32 / head_dim as f32);
    let angles: Vec<f32> = (0..tokens).flat_map(|p| (0..half).map(move |i| p as f32 * frequency(i))).collect();
    let table = |f: fn(f32) -> f32| Tensor::new(angles.iter().map(|&a| f(a)).collect(), &[1, tokens, half]);
    RopeTable { cos: table(f32::cos), sin: table(f32::sin) }
}

/// Rotates each pair (xᵢ, xᵢ₊ₕ), h = head_dim / 2, by angle i of its token (transformers `rotate_half`; FLUX.2's
/// own transformer rotates adjacent pairs): x `[batch, tokens, heads, head_dim]`, table `[1, tokens, head_dim / 2]`.
///
/// # Errors
/// `SHAPE_MISMATCH` when the table does not fit x.
pub fn rope_half_split(x: &Tensor, table: &RopeTable) -> Result<Tensor> {
    let &[batch, tokens, heads, head_dim] = x.shape() else {
        return Err(shape_error("rope", "x", "[batch, tokens, heads, head_dim]", x.shape()));
    };
    let half = head_dim / 2;
    for t in [&table.cos, &table.sin] {
        if head_dim % 2 == 1 || t.shape() != [1, tokens, half] {
            return Err(shape_error("rope", "table", format!("[1, {tokens}, {head_dim} / 2]"), t.shape()));
        }
    }
    if let Some((on, [x, cos, sin])) = device::operands("rope", [x, &table.cos, &table.sin])? {
        return device::made(on, composed::rope_half_split(&x, &cos, &sin));
    }
    with_real!(x.dtype(), "rope", T => {
        let (cos, sin, xs) = (table.cos.as_slice::<T>()?, table.sin.as_slice::<T>()?, x.as_slice::<T>()?);
        let row = heads * head_dim;
        let out = parallel::fill(batch * tokens, row, #[inline(always)] |i, out| {
            let (cos, sin) = (&cos[i % tokens * half..][..half], &sin[i % tokens * half..][..half]);
            for (out, x) in out.chunks_exact_mut(head_dim).zip(xs[i * row..][..row].chunks_exact(head_dim)) {
                let ((low, high), (a, b)) = (out.split_at_mut(half), x.split_at(half));
                for j in 0..half {
                    low[j] = a[j] * cos[j] - b[j] * sin[j];
                    high[j] = b[j] * cos[j] + a[j] * sin[j];
                }
            }
        });
        Ok(Tensor::new(out, x.shape()))
    })
}

#[cfg(test)]
mod tests;
