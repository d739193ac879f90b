//! Attention in chunks of queries: products by cuBLAS, and what is between them by kernels. Shapes as
//! [`crate::Tape::attention`]. Heads are multiplied where they lie: nothing is transposed.

use candle_core::{Tensor, WithDType};

use super::launched;
use super::place::{Input, Place, Room, input};
use crate::device::Kernels;
use crate::error::{Result, shape_error};
use crate::kernels::{self, ChunkRows, Factor, Heads, Layout, Value, View, product};

/// Scores that are in memory at once, in three buffers of 4, 2 and 2 bytes for bfloat16.
const MAX_SCORES: usize = 1 << 26;

/// As [`crate::device::composed::attention`].
pub(crate) fn attention(kernels: Kernels, q: &Tensor, k: &Tensor, v: &Tensor) -> Option<Result<(Tensor, Tensor)>> {
    launched!(kernels, q, q.dtype(), on, T => {
        let run = || {
            let extents = Extents::of(q, k)?;
            forward::<_, T>(on, [&input(on, q)?, &input(on, k)?, &input(on, v)?], extents, MAX_SCORES)
        };
        run()
    })
}

/// As [`crate::device::composed::attention_backward`].
pub(crate) fn attention_backward(
    kernels: Kernels,
    [q, k, v]: [&Tensor; 3],
    out: &Tensor,
    lse: &Tensor,
    g: &Tensor,
) -> Option<Result<[Tensor; 3]>> {
    launched!(kernels, q, q.dtype(), on, T => {
        let run = || {
            let extents = Extents::of(q, k)?;
            let saved = Saved { out: input(on, out)?, lse: input(on, lse)? };
            let qkv = [&input(on, q)?, &input(on, k)?, &input(on, v)?];
            backward::<_, T>(on, qkv, &saved, &input(on, g)?, extents, MAX_SCORES)
        };
        run()
    })
}

struct Saved<'a, T> {
    out: Input<'a, T>,
    lse: Input<'a, f32>,
}

#[derive(Clone, Copy)]
struct Extents {
    batch: usize,
    queries: usize,
    keys: usize,
    heads: usize,
    dim: usize,
}

/// Some queries of each head of each sample.
#[derive(Clone, Copy)]
struct Chunk {
    start: usize,
    count: usize,
}

impl Extents {
    fn of(q: &Tensor, k: &Tensor) -> Result<Self> {
        let (batch, queries, heads, dim) = q.dims4()?;
        let keys = k.dim(1)?;
        match keys > 0 {
            true => Ok(Self { batch, queries, keys, heads, dim }),
            false => Err(shape_error("attention", "k", "with some keys", k.dims())),
        }
    }

    fn scale(self) -> f32 {
        (self.dim as f32).sqrt().recip()
    }

    /// Heads of all samples.
    fn groups(self) -> usize {
        self.batch * self.heads
    }

    /// Queries whose scores are at most `most`, but one at least.
    fn chunk_rows(self, most: usize) -> usize {
        (most / (self.groups() * self.keys).max(1)).clamp(1, self.queries.max(1))
    }

    fn chunks(self, most: usize) -> impl Iterator<Item = Chunk> {
        let rows = self.chunk_rows(most);
        (0..self.queries).step_by(rows).map(move |start| Chunk { start, count: rows.min(self.queries - start) })
    }

    fn scores(self, chunk: Chunk) -> usize {
        self.groups() * chunk.count * self.keys
    }

    fn chunk_rows_of(self, chunk: Chunk) -> ChunkRows {
        ChunkRows { groups: self.groups(), rows: chunk.count, keys: self.keys, stride: self.queries }
    }

    /// The heads of a sample's queries in a chunk, in `[batch, queries, heads, dim]`.
    fn at_queries(self, sample: usize, Chunk { start, count }: Chunk) -> Layout {
        self.at_tokens(sample * self.queries + start, count)
    }

    /// The heads of a sample's keys, in `[batch, keys, heads, dim]`.
    fn at_keys(self, sample: usize) -> Layout {
        self.at_tokens(sample * self.keys, self.keys)
    }

    fn at_tokens(self, first: usize, rows: usize) -> Layout {
        let step = self.heads * self.dim;
        Layout { start: first * step, rows, cols: self.dim, step, group: self.dim, transposed: false }
    }

    /// The scores of a sample, in `[batch, heads, count, keys]`.
    fn at_scores(self, sample: usize, chunk: Chunk) -> Layout {
        let group = chunk.count * self.keys;
        let start = sample * self.heads * group;
        Layout { start, rows: chunk.count, cols: self.keys, step: self.keys, group, transposed: false }
    }
}

fn forward<L: Place, T: Value + WithDType>(
    on: &L,
    [q, k, v]: [&Input<T>; 3],
    e: Extents,
    most: usize,
) -> Result<(Tensor, Tensor)> {
    let scores_len = e.groups() * e.chunk_rows(most) * e.keys;
    let (mut scores, mut p) = (Room::<f32>::new(on, scores_len)?, Room::<T>::new(on, scores_len)?);
    let mut out = Room::<T>::new(on, e.groups() * e.queries * e.dim)?;
    let mut lse = Room::<f32>::new(on, e.groups() * e.queries)?;
    for chunk in e.chunks(most) {
        let len = e.scores(chunk);
        for sample in 0..e.batch {
            let (a, b) = (e.at_queries(sample, chunk), e.at_keys(sample).t());
            let c = (&mut scores.first_mut(len), e.at_scores(sample, chunk));
            product(on, (&q.view, a), (&k.view, b), c, e.heads, Factor::scaled(e.scale()))?;
        }
        let mut all = lse.view_mut();
        let mut of_chunk = all.slice(chunk.start, e.groups() * e.queries - chunk.start).expect("within");
        kernels::softmax(on, &scores.first(len), &mut p.first_mut(len), &mut of_chunk, e.chunk_rows_of(chunk))?;
        for sample in 0..e.batch {
            let (a, b) = (e.at_scores(sample, chunk), e.at_keys(sample));
            let c = (&mut out.view_mut(), e.at_queries(sample, chunk));
            product(on, (&p.first(len), a), (&v.view, b), c, e.heads, Factor::ONE)?;
        }
    }
    let out = out.tensor(&[e.batch, e.queries, e.heads * e.dim]);
    Ok((out, lse.tensor(&[e.batch, e.heads, e.queries, 1])))
}

/// dV = Pᵀ·g, dS = scale·P∘(g·Vᵀ − rowsum(g∘out)), dQ = dS·K, dK = dSᵀ·Q; sums over chunks in float32.
fn backward<L: Place, T: Value + WithDType>(
    on: &L,
    [q, k, v]: [&Input<T>; 3],
    saved: &Saved<T>,
    g: &Input<T>,
    e: Extents,
    most: usize,
) -> Result<[Tensor; 3]> {
    let delta = row_products(on, &saved.out.view, &g.view, e)?;
    let scores_len = e.groups() * e.chunk_rows(most) * e.keys;
    let mut scores = Room::<f32>::new(on, scores_len)?;
    let (mut p, mut ds) = (Room::<T>::new(on, scores_len)?, Room::<T>::new(on, scores_len)?);
    let mut dq = Room::<T>::new(on, e.groups() * e.queries * e.dim)?;
    let of_keys = || Room::<f32>::new(on, e.groups() * e.keys * e.dim);
    let (mut dk, mut dv) = (of_keys()?, of_keys()?);
    for chunk in e.chunks(most) {
        let (len, rows) = (e.scores(chunk), e.chunk_rows_of(chunk));
        let (all_lse, all_delta) = (&saved.lse.view, delta.view());
        let rest = e.groups() * e.queries - chunk.start;
        let (lse, delta) = (all_lse.slice(chunk.start, rest), all_delta.slice(chunk.start, rest));
        let (lse, delta) = (lse.expect("within"), delta.expect("within"));
        // q·kᵀ or g·vᵀ.
        let scores_of = |scores: &mut Room<f32>, x: &View<T>, y: &View<T>| {
            (0..e.batch).try_for_each(|sample| {
                let (a, b) = (e.at_queries(sample, chunk), e.at_keys(sample).t());
                let c = (&mut scores.first_mut(len), e.at_scores(sample, chunk));
                product(on, (x, a), (y, b), c, e.heads, Factor::ONE)
            })
        };
        scores_of(&mut scores, &q.view, &k.view)?;
        kernels::probabilities(on, &scores.first(len), &lse, &mut p.first_mut(len), rows, e.scale())?;
        scores_of(&mut scores, &g.view, &v.view)?;
        let (dp, p, factor) = (scores.first(len), p.first(len), Factor { scale: 1.0, add: chunk.start > 0 });
        kernels::score_gradient(on, &p, &dp, &delta, &mut ds.first_mut(len), rows, e.scale())?;
        let ds = ds.first(len);
        for sample in 0..e.batch {
            let (of_scores, of_queries) = (e.at_scores(sample, chunk), e.at_queries(sample, chunk));
            let of_keys = e.at_keys(sample);
            let into_dq = (&mut dq.view_mut(), of_queries);
            product(on, (&ds, of_scores), (&k.view, of_keys), into_dq, e.heads, Factor::ONE)?;
            let into_dk = (&mut dk.view_mut(), of_keys);
            product(on, (&ds, of_scores.t()), (&q.view, of_queries), into_dk, e.heads, factor)?;
            let into_dv = (&mut dv.view_mut(), of_keys);
            product(on, (&p, of_scores.t()), (&g.view, of_queries), into_dv, e.heads, factor)?;
        }
    }
    let shape = |tokens| [e.batch, tokens, e.heads, e.dim];
    let of_keys = |x: Room<f32>| x.tensor(&shape(e.keys)).to_dtype(T::DTYPE);
    Ok([dq.tensor(&shape(e.queries)), of_keys(dk)?, of_keys(dv)?])
}

fn row_products<L: Place, T: Value + WithDType>(on: &L, out: &View<T>, g: &View<T>, e: Extents) -> Result<Room<f32>> {
    let mut delta = Room::new(on, e.groups() * e.queries)?;
    let heads = Heads { batch: e.batch, tokens: e.queries, heads: e.heads, dim: e.dim };
    kernels::row_products(on, out, g, &mut delta.view_mut(), heads)?;
    Ok(delta)
}

#[cfg(all(test, feature = "emulate"))]
mod tests {
    use super::*;
    use crate::device::composed;
    use crate::kernels::Emulated;

    fn numbers(shape: [usize; 4], seed: usize) -> Tensor {
        let value = |i: usize| ((i * 2_654_435_761 + seed * 40_503) % 65_537) as f32 / 32_768.0 - 1.0;
        let n: usize = shape.iter().product();
        Tensor::from_iter((0..n).map(value), &candle_core::Device::Cpu).unwrap().reshape(&shape).unwrap()
    }

    fn off(got: &Tensor, want: &Tensor) -> f32 {
        (got - want.reshape(got.dims()).unwrap()).unwrap().abs().unwrap().max_all().unwrap().to_scalar().unwrap()
    }

    #[test]
    fn chunks_are_the_whole() {
        let on = &Emulated::new();
        let (q, k) = (numbers([2, 7, 3, 8], 1), numbers([2, 5, 3, 8], 2));
        let (v, g) = (numbers([2, 5, 3, 8], 3), numbers([2, 7, 3, 8], 4));
        let (out, lse) = composed::attention(&q, &k, &v).unwrap();
        let want = composed::attention_backward([&q, &k, &v], &out, &lse, &g).unwrap();
        let extents = Extents::of(&q, &k).unwrap();
        let inputs = [&input(on, &q).unwrap(), &input(on, &k).unwrap(), &input(on, &v).unwrap()];
        // One query at a time, two, all.
        for most in [1, 60, 1000] {
            let (got, got_lse) = forward::<_, f32>(on, inputs, extents, most).unwrap();
            assert!(off(&got, &out) < 1e-5 && off(&got_lse, &lse) < 1e-5, "at most {most}");
            let saved = Saved { out: input(on, &got).unwrap(), lse: input(on, &got_lse).unwrap() };
            let gradients = backward::<_, f32>(on, inputs, &saved, &input(on, &g).unwrap(), extents, most).unwrap();
            for (got, want) in gradients.iter().zip(&want) {
                assert!(off(got, want) < 1e-5, "at most {most}: {}", off(got, want));
            }
        }
    }
}
