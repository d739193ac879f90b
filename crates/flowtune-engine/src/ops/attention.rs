//! Joint attention without a mask. The score matrix exists only for a chunk of queries at a time; the
//! backward keeps the output and the log-sum-exp and recomputes the probabilities (arXiv:2205.14135).

use rayon::prelude::*;

use crate::cpu::gemm::{Mat, MatMut, Threads, Write, gemm};
use crate::cpu::lanes;
use crate::cpu::simd::vectorised;
use crate::dtype::{Real, with_real};
use crate::error::{Result, shape_error};
use crate::tape::{Tape, Var};
use crate::tensor::Tensor;

/// Queries whose scores are in memory at once, per head.
const QUERY_CHUNK: usize = 128;

impl Tape {
    /// softmax(q·kᵀ/√head_dim)·v per head: q `[batch, queries, heads, head_dim]`, k and v
    /// `[batch, keys, heads, head_dim]` → `[batch, queries, heads·head_dim]`.
    ///
    /// # Errors
    /// `SHAPE_MISMATCH` when the extents do not fit.
    pub fn attention(&self, q: &Var, k: &Var, v: &Var) -> Result<Var> {
        let dims = Dims::of(q.tensor(), k.tensor(), v.tensor())?;
        with_real!(q.tensor().dtype(), "attention", T => {
            let (qs, ks, vs) = (q.tensor().clone(), k.tensor().clone(), v.tensor().clone());
            let (out, lse) = forward::<T>(&qs, &ks, &vs, dims)?;
            let saved = out.clone();
            Ok(self.record(&[q, k, v], out, |_| {
                move |g: Tensor| backward::<T>(&qs, &ks, &vs, &saved, &lse, &g, dims)
            }))
        })
    }
}

#[derive(Clone, Copy)]
struct Dims {
    batch: usize,
    queries: usize,
    keys: usize,
    heads: usize,
    head_dim: usize,
}

impl Dims {
    fn of(q: &Tensor, k: &Tensor, v: &Tensor) -> Result<Self> {
        let &[batch, queries, heads, head_dim] = q.shape() else {
            return Err(shape_error("attention", "q", "[batch, queries, heads, head_dim]", q.shape()));
        };
        let expected = format!("[{batch}, keys, {heads}, {head_dim}]");
        let s = k.shape();
        if s.len() != 4 || s[0] != batch || s[2..] != [heads, head_dim] {
            return Err(shape_error("attention", "k", expected, s));
        }
        if v.shape() != s {
            return Err(shape_error("attention", "v", format!("{s:?}"), v.shape()));
        }
        Ok(Self { batch, queries, keys: s[1], heads, head_dim })
    }

    fn scale<T: Real>(self) -> T {
        T::of((self.head_dim as f64).sqrt().recip())
    }

    /// Elements from one token to the next.
    fn stride(self) -> usize {
        self.heads * self.head_dim
    }
}

/// One head of one sample of a `[batch, tokens, heads, head_dim]` slice.
fn head<T>(data: &[T], tokens: usize, at: usize, d: Dims) -> Mat<'_, T> {
    let (b, h) = (at / d.heads, at % d.heads);
    let start = b * tokens * d.stride() + h * d.head_dim;
    Mat::strided(&data[start..], tokens, d.head_dim, d.stride())
}

/// Rows of every head, computed in parallel as `[batch·heads][tokens, head_dim]`, laid out as
/// `[batch, tokens, heads·head_dim]`.
fn interleave<T: Real>(heads: &[Vec<T>], tokens: usize, d: Dims) -> Vec<T> {
    crate::cpu::parallel::fill(d.batch * tokens, d.stride(), |i, out| {
        let (b, t) = (i / tokens, i % tokens);
        for (h, out) in out.chunks_exact_mut(d.head_dim).enumerate() {
            out.copy_from_slice(&heads[b * d.heads + h][t * d.head_dim..][..d.head_dim]);
        }
    })
}

/// Output and log-sum-exp `[batch·heads, queries]`.
fn forward<T: Real>(q: &Tensor, k: &Tensor, v: &Tensor, d: Dims) -> Result<(Tensor, Vec<Vec<T>>)> {
    let (qs, ks, vs) = (q.as_slice::<T>()?, k.as_slice::<T>()?, v.as_slice::<T>()?);
    let (heads, lse): (Vec<_>, Vec<_>) = (0..d.batch * d.heads)
        .into_par_iter()
        .map(|at| {
            let (k, v) = (head(ks, d.keys, at, d), head(vs, d.keys, at, d));
            let mut out = vec![T::zero(); d.queries * d.head_dim];
            let mut lse = vec![T::zero(); d.queries];
            let mut scores = vec![T::zero(); QUERY_CHUNK.min(d.queries) * d.keys];
            for start in (0..d.queries).step_by(QUERY_CHUNK) {
                let rows = QUERY_CHUNK.min(d.queries - start);
                let q = head(qs, d.queries, at, d).rows(start, rows);
                let scores = &mut scores[..rows * d.keys];
                gemm(MatMut::new(scores, d.keys), Write::Set, d.scale(), q, k.t(), Threads::One);
                vectorised(|| {
                    for (row, lse) in scores.chunks_exact_mut(d.keys).zip(&mut lse[start..]) {
                        *lse = softmax(row);
                    }
                });
                let out = &mut out[start * d.head_dim..][..rows * d.head_dim];
                let p = Mat::new(scores, rows, d.keys);
                gemm(MatMut::new(out, d.head_dim), Write::Set, T::one(), p, v, Threads::One);
            }
            (out, lse)
        })
        .unzip();
    let out = interleave(&heads, d.queries, d);
    Ok((Tensor::new(out, &[d.batch, d.queries, d.stride()]), lse))
}

/// Turns a row of scores into probabilities and returns its log-sum-exp.
#[inline(always)]
fn softmax<T: Real>(row: &mut [T]) -> T {
    let max = lanes::max(row);
    row.iter_mut().for_each(|x| *x = (*x - max).exp_fast());
    let sum = lanes::sum(row);
    let inverse = sum.recip();
    row.iter_mut().for_each(|x| *x *= inverse);
    max + sum.ln()
}

/// Gradients of one head.
struct HeadGradients<T> {
    q: Vec<T>,
    k: Vec<T>,
    v: Vec<T>,
}

fn backward<T: Real>(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    out: &Tensor,
    lse: &[Vec<T>],
    g: &Tensor,
    d: Dims,
) -> Result<Vec<Option<Tensor>>> {
    let (qs, ks, vs) = (q.as_slice::<T>()?, k.as_slice::<T>()?, v.as_slice::<T>()?);
    let (os, gs) = (out.as_slice::<T>()?, g.as_slice::<T>()?);
    let heads: Vec<HeadGradients<T>> =
        (0..d.batch * d.heads).into_par_iter().map(|at| head_backward(at, qs, ks, vs, os, &lse[at], gs, d)).collect();
    let (mut dq, mut dk, mut dv) = (Vec::new(), Vec::new(), Vec::new());
    for head in heads {
        dq.push(head.q);
        dk.push(head.k);
        dv.push(head.v);
    }
    Ok(vec![
        Some(Tensor::new(interleave(&dq, d.queries, d), q.shape())),
        Some(Tensor::new(interleave(&dk, d.keys, d), k.shape())),
        Some(Tensor::new(interleave(&dv, d.keys, d), v.shape())),
    ])
}

/// With P = softmax(S): dV = Pᵀ·g, dS = P∘(g·Vᵀ − rowsum(g∘out)), dQ = scale·dS·K, dK = scale·dSᵀ·Q.
fn head_backward<T: Real>(
    at: usize,
    qs: &[T],
    ks: &[T],
    vs: &[T],
    os: &[T],
    lse: &[T],
    gs: &[T],
    d: Dims,
) -> HeadGradients<T> {
    let (k, v) = (head(ks, d.keys, at, d), head(vs, d.keys, at, d));
    let scale = d.scale();
    let mut dq = vec![T::zero(); d.queries * d.head_dim];
    let mut dk = vec![T::zero(); d.keys * d.head_dim];
    let mut dv = vec![T::zero(); d.keys * d.head_dim];
    let chunk = QUERY_CHUNK.min(d.queries) * d.keys;
    let (mut p, mut ds) = (vec![T::zero(); chunk], vec![T::zero(); chunk]);
    for start in (0..d.queries).step_by(QUERY_CHUNK) {
        let rows = QUERY_CHUNK.min(d.queries - start);
        let (p, ds) = (&mut p[..rows * d.keys], &mut ds[..rows * d.keys]);
        let (q, g, o) = (
            head(qs, d.queries, at, d).rows(start, rows),
            head(gs, d.queries, at, d).rows(start, rows),
            head(os, d.queries, at, d).rows(start, rows),
        );
        gemm(MatMut::new(p, d.keys), Write::Set, scale, q, k.t(), Threads::One);
        gemm(MatMut::new(ds, d.keys), Write::Set, T::one(), g, v.t(), Threads::One);
        vectorised(|| {
            for (i, (p, ds)) in p.chunks_exact_mut(d.keys).zip(ds.chunks_exact_mut(d.keys)).enumerate() {
                let delta = lanes::dot(g.row(i), o.row(i));
                let lse = lse[start + i];
                for (p, ds) in p.iter_mut().zip(ds) {
                    *p = (*p - lse).exp_fast();
                    *ds = *p * (*ds - delta);
                }
            }
        });
        let (p, ds) = (Mat::new(p, rows, d.keys), Mat::new(ds, rows, d.keys));
        gemm(MatMut::new(&mut dv, d.head_dim), Write::Add, T::one(), p.t(), g, Threads::One);
        gemm(MatMut::new(&mut dk, d.head_dim), Write::Add, scale, ds.t(), q, Threads::One);
        let dq = &mut dq[start * d.head_dim..][..rows * d.head_dim];
        gemm(MatMut::new(dq, d.head_dim), Write::Set, scale, ds, k, Threads::One);
    }
    HeadGradients { q: dq, k: dk, v: dv }
}
