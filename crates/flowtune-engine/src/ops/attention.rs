//! Joint attention without a mask. Scores exist only for a chunk of queries (forward) or of keys and queries (backward)
//! at a time; the backward keeps the output and the log-sum-exp and recomputes the probabilities (arXiv:2205.14135).

use candle_core::Tensor as Twin;
use num_traits::{Float, One, Zero};

use crate::cpu::gemm::Multiply;
use crate::cpu::lanes;
use crate::cpu::mat::{Mat, MatMut, Threads, Write};
use crate::cpu::memory::unfilled;
use crate::cpu::parallel;
use crate::cpu::product::{Panels, SIDE, Term, copy_rows};
use crate::cpu::simd::vectorised;
use crate::device::{self, Kernels};
use crate::dtype::{Real, Stored, with_stored};
use crate::error::{Error, Result, shape_error};
use crate::tape::{Tape, Var};
use crate::tensor::Tensor;

/// Queries of the forward, and keys of the backward, whose scores are in memory at once, per head.
const CHUNK: usize = 48;
/// Queries that one pass of the backward goes over: sums over queries leave the registers once in a pass, and a thread
/// keeps the gradients of keys × this many scores.
const QUERIES_PER_PASS: usize = 1536;

impl Tape {
    /// softmax(q·kᵀ/√head_dim)·v per head: q `[batch, queries, heads, head_dim]`, k and v
    /// `[batch, keys, heads, head_dim]` → `[batch, queries, heads·head_dim]`.
    ///
    /// # Errors
    /// `SHAPE_MISMATCH` when the extents do not fit.
    pub fn attention(&self, q: &Var, k: &Var, v: &Var) -> Result<Var> {
        let dims = Dims::of(q.tensor(), k.tensor(), v.tensor())?;
        if let Some((on, twins)) = device::operands("attention", [q.tensor(), k.tensor(), v.tensor()])? {
            return self.attention_on_device(on, twins, [q, k, v]);
        }
        with_stored!(q.tensor().dtype(), "attention", T => {
            let (qs, ks, vs) = (q.tensor().clone(), k.tensor().clone(), v.tensor().clone());
            let (out, lse) = forward::<T>(&qs, &ks, &vs, dims)?;
            let (saved, made) = ([q, k, v].map(Var::saved), out.clone());
            Ok(self.record(&[q, k, v], out, |_| {
                move |g: Tensor| {
                    let [q, k, v] = &saved;
                    backward::<T>(&q.get()?, &k.get()?, &v.get()?, &made, &lse, &g, dims)
                }
            }))
        })
    }
}

impl Tape {
    fn attention_on_device(&self, on: Kernels, twins: [Twin; 3], inputs: [&Var; 3]) -> Result<Var> {
        let (out, lse) = device::attention(on, twins.each_ref())?;
        let saved = inputs.map(Var::saved);
        Ok(self.record(&inputs, device::made(on, Ok(out.clone()))?, |_| {
            move |g: Tensor| {
                let [q, k, v] = &saved;
                let Some((_, [q, k, v, g])) = device::operands("attention", [&q.get()?, &k.get()?, &v.get()?, &g])?
                else {
                    return Err(Error::Device { op: "attention" });
                };
                let gradients = device::attention_backward(on, [&q, &k, &v], &out, &lse, &g)?;
                Ok(gradients.map(Some).into())
            }
        }))
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

/// The heads of each sample of a `[batch, tokens, heads, head_dim]` slice, for writing.
fn heads_mut<T>(data: &mut [T], tokens: usize, d: Dims) -> Vec<MatMut<'_, T>> {
    MatMut::new(data, d.stride()).blocks(tokens, d.head_dim)
}

/// c = scale·a·b on the calling thread, b packed beforehand.
fn multiply<T: Multiply, O: Stored<Compute = T::Compute>>(
    c: MatMut<O>,
    write: Write,
    scale: T::Compute,
    a: Mat<T>,
    b: &Panels<T>,
) {
    T::multiply(c, write, scale, &[Term { a, b: b.into() }], Threads::One);
}

/// Output and log-sum-exp `[batch·heads, queries]`.
fn forward<T: Multiply>(q: &Tensor, k: &Tensor, v: &Tensor, d: Dims) -> Result<(Tensor, Vec<Vec<T::Compute>>)> {
    let (qs, ks, vs) = (q.as_slice::<T>()?, k.as_slice::<T>()?, v.as_slice::<T>()?);
    let mut out = unfilled::<T>(q.len());
    let mut lse = vec![Vec::new(); d.batch * d.heads];
    parallel::each(heads_mut(&mut out, d.queries, d).into_iter().zip(&mut lse).collect(), |at, (out, lse)| {
        let (k, v) = (head(ks, d.keys, at, d), head(vs, d.keys, at, d));
        *lse = head_forward(head(qs, d.queries, at, d), k, v, d.scale(), out);
    });
    Ok((Tensor::new(out, &[d.batch, d.queries, d.stride()]), lse))
}

/// Writes the output of one head and returns its log-sum-exp.
fn head_forward<T: Multiply>(
    q: Mat<T>,
    k: Mat<T>,
    v: Mat<T>,
    scale: T::Compute,
    mut out: MatMut<T>,
) -> Vec<T::Compute> {
    let (keys, queries) = (k.rows(), q.rows());
    let (k, v) = (T::panels(k.t()), T::panels(v));
    let mut lse = vec![T::Compute::zero(); queries];
    let mut scores = unfilled::<T::Compute>(CHUNK.min(queries) * keys);
    let mut p = unfilled::<T>(CHUNK.min(queries) * keys);
    for start in (0..queries).step_by(CHUNK) {
        let rows = CHUNK.min(queries - start);
        let (scores, p) = (&mut scores[..rows * keys], &mut p[..rows * keys]);
        multiply(MatMut::new(scores, keys), Write::Set, scale, q.slice_rows(start, rows), &k);
        vectorised(
            #[inline(always)]
            || {
                let rows = scores.chunks_exact_mut(keys).zip(p.chunks_exact_mut(keys));
                for ((scores, p), lse) in rows.zip(&mut lse[start..]) {
                    *lse = softmax(scores, p);
                }
            },
        );
        multiply(out.slice_rows(start, rows), Write::Set, T::Compute::one(), Mat::new(p, rows, keys), &v);
    }
    lse
}

/// Probabilities of a row of scores, which it overwrites; returns their log-sum-exp.
#[inline(always)]
fn softmax<T: Stored>(scores: &mut [T::Compute], p: &mut [T]) -> T::Compute {
    let max = lanes::max(scores);
    scores.iter_mut().for_each(|x| *x = (*x - max).exp_fast());
    let sum = lanes::sum(scores);
    let inverse = sum.recip();
    p.iter_mut().zip(&*scores).for_each(|(p, &x)| *p = T::store(x * inverse));
    max + sum.ln()
}

fn backward<T: Multiply>(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    out: &Tensor,
    lse: &[Vec<T::Compute>],
    g: &Tensor,
    d: Dims,
) -> Result<Vec<Option<Tensor>>> {
    let (qs, ks, vs) = (q.as_slice::<T>()?, k.as_slice::<T>()?, v.as_slice::<T>()?);
    let (os, gs) = (out.as_slice::<T>()?, g.as_slice::<T>()?);
    let (mut dq, mut dk, mut dv) = (unfilled::<T>(q.len()), unfilled::<T>(k.len()), unfilled::<T>(v.len()));
    let gradients = heads_mut(&mut dq, d.queries, d)
        .into_iter()
        .zip(heads_mut(&mut dk, d.keys, d))
        .zip(heads_mut(&mut dv, d.keys, d));
    parallel::each(gradients.collect(), |at, ((dq, dk), dv)| {
        let (q, k, v) = (head(qs, d.queries, at, d), head(ks, d.keys, at, d), head(vs, d.keys, at, d));
        let (o, g) = (head(os, d.queries, at, d), head(gs, d.queries, at, d));
        Head { q, k, v, o, g, lse: &lse[at], scale: d.scale() }.backward(dq, dk, dv);
    });
    Ok(vec![Some(Tensor::new(dq, q.shape())), Some(Tensor::new(dk, k.shape())), Some(Tensor::new(dv, v.shape()))])
}

/// What the backward of one head starts from.
struct Head<'a, T: Stored> {
    q: Mat<'a, T>,
    k: Mat<'a, T>,
    v: Mat<'a, T>,
    o: Mat<'a, T>,
    g: Mat<'a, T>,
    lse: &'a [T::Compute],
    scale: T::Compute,
}

impl<T: Multiply> Head<'_, T> {
    /// With P = softmax(S): dV = Pᵀ·g, dS = P∘(g·Vᵀ − rowsum(g∘out)), dQ = scale·dS·K, dK = scale·dSᵀ·Q.
    ///
    /// Scores are made transposed, a row for each key: so the sums over queries (dV, dK) and over keys (dQ) find what
    /// they add up side by side, and the large matrices are never turned round.
    fn backward(&self, mut dq: MatMut<T>, dk: MatMut<T>, dv: MatMut<T>) {
        let (queries, keys, dim) = (self.q.rows(), self.k.rows(), self.q.cols());
        let delta: Vec<T::Compute> = vectorised(
            #[inline(always)]
            || (0..queries).map(|i| lanes::sum_by2(self.g.row(i), self.o.row(i), |g, o| g * o)).collect(),
        );
        let (mut dk_sum, mut dv_sum) = (unfilled::<T::Compute>(keys * dim), unfilled::<T::Compute>(keys * dim));
        for start in (0..queries).step_by(QUERIES_PER_PASS) {
            let count = QUERIES_PER_PASS.min(queries - start);
            let write = if start == 0 { Write::Set } else { Write::Add };
            let (q, g) = (self.q.slice_rows(start, count), self.g.slice_rows(start, count));
            let pass = Pass {
                q_t: T::panels(q.t()),
                g_t: T::panels(g.t()),
                q: T::panels(q),
                g: T::panels(g),
                lse: &self.lse[start..][..count],
                delta: &delta[start..][..count],
            };
            let mut ds = unfilled::<T>(keys * count);
            for first in (0..keys).step_by(CHUNK) {
                let rows = CHUNK.min(keys - first);
                let ds = &mut ds[first * count..][..rows * count];
                let (dk, dv) = (&mut dk_sum[first * dim..][..rows * dim], &mut dv_sum[first * dim..][..rows * dim]);
                self.keys_backward(first, rows, &pass, write, ds, MatMut::new(dk, dim), MatMut::new(dv, dim));
            }
            let ds = T::panels(Mat::new(&ds, keys, count));
            let mut dq_t = unfilled::<T::Compute>(dim * count);
            multiply(MatMut::new(&mut dq_t, count), Write::Set, self.scale, self.k.t(), &ds);
            let dq = dq.slice_rows(start, count);
            vectorised(
                #[inline(always)]
                || turn(&dq_t, dq),
            );
        }
        vectorised(
            #[inline(always)]
            || round(&dk_sum, dk),
        );
        vectorised(
            #[inline(always)]
            || round(&dv_sum, dv),
        );
    }

    /// Gradients of some keys and values, and dS of their scores.
    fn keys_backward(
        &self,
        first: usize,
        rows: usize,
        pass: &Pass<T>,
        write: Write,
        ds: &mut [T],
        dk: MatMut<T::Compute>,
        dv: MatMut<T::Compute>,
    ) {
        let count = pass.lse.len();
        let mut p = unfilled::<T>(rows * count);
        let scores = Term { a: self.k.slice_rows(first, rows), b: (&pass.q_t).into() };
        let probabilities = MatMut::new(&mut p, count);
        T::sums(
            &[scores],
            Threads::One,
            #[inline(always)]
            |i, queries, scores| {
                // SAFETY: each element comes once.
                let p = unsafe { probabilities.row(i, queries.clone()) };
                for ((p, &s), &lse) in p.iter_mut().zip(scores).zip(&pass.lse[queries]) {
                    *p = T::store((self.scale * s - lse).exp_fast());
                }
            },
        );
        let products = Term { a: self.v.slice_rows(first, rows), b: (&pass.g_t).into() };
        let ds_rows = MatMut::new(ds, count);
        T::sums(
            &[products],
            Threads::One,
            #[inline(always)]
            |i, queries, dp| {
                let p = &p[i * count..][queries.clone()];
                // SAFETY: each element comes once.
                let ds = unsafe { ds_rows.row(i, queries.clone()) };
                for (((ds, p), &dp), &delta) in ds.iter_mut().zip(p).zip(dp).zip(&pass.delta[queries]) {
                    *ds = T::store(p.load() * (dp - delta));
                }
            },
        );
        multiply(dv, write, T::Compute::one(), Mat::new(&p, rows, count), &pass.g);
        multiply(dk, write, self.scale, Mat::new(ds, rows, count), &pass.q);
    }
}

/// Queries that one pass goes over, packed for the products that they are the right matrix of.
struct Pass<'a, T: Stored> {
    q_t: Panels<'a, T>,
    g_t: Panels<'a, T>,
    q: Panels<'a, T>,
    g: Panels<'a, T>,
    lse: &'a [T::Compute],
    delta: &'a [T::Compute],
}

/// Rounds sums into `out`.
#[inline(always)]
fn round<T: Stored>(sums: &[T::Compute], out: MatMut<T>) {
    for (i, sums) in sums.chunks_exact(out.cols()).enumerate() {
        // SAFETY: one row at a time.
        let out = unsafe { out.row(i, 0..out.cols()) };
        out.iter_mut().zip(sums).for_each(|(out, &x)| *out = T::store(x));
    }
}

/// Rounds the transpose of sums, `[cols, rows]`, into `out`, `[rows, cols]`: some lines of cache at a time.
#[inline(always)]
fn turn<T: Stored>(sums: &[T::Compute], mut out: MatMut<T>) {
    let (rows, cols) = (out.rows(), out.cols());
    let sums = Mat::new(sums, cols, rows).t();
    let mut lines = unfilled::<T::Compute>(SIDE.min(rows) * cols);
    for first in (0..rows).step_by(SIDE) {
        let count = SIDE.min(rows - first);
        copy_rows(&sums, first, &mut lines[..count * cols], cols);
        round(&lines[..count * cols], out.slice_rows(first, count));
    }
}
