//! What chunked attention does between its matrix products: the middle of [`crate::Tape::attention`].
//!
//! With scores S of a chunk of queries, P = softmax(S) and the gradient dP = g·Vᵀ, the backward needs
//! dS = P∘(dP − rowsum(g∘out)). The products themselves, and the transposes, are the caller's.

use super::buffer::{Buffer, Value, View, ViewMut};
use super::grid::Grid;
use super::launch::{Arg, Kernel, Launcher, check, launch};
use crate::error::{Result, shape_error};

const FILE: &str = "softmax";

/// Scores `[groups, rows, keys]`: some queries of each head of each sample. What there is one of for each query
/// (log-sum-exp, row product) is `[groups, stride]`, or a view into it that begins with the chunk's first query.
#[derive(Debug, Clone, Copy)]
pub struct ChunkRows {
    /// Heads of all samples.
    pub groups: usize,
    /// Queries of the chunk.
    pub rows: usize,
    /// Keys.
    pub keys: usize,
    /// From one group's first query to the next's.
    pub stride: usize,
}

impl ChunkRows {
    fn all(self) -> [usize; 3] {
        [self.groups, self.rows, self.keys]
    }

    /// That `per_query` reaches to the last query of the last group.
    fn check(self, op: &'static str, argument: &'static str, per_query: &dyn Buffer) -> Result<()> {
        let Self { groups, rows, stride, .. } = self;
        let last = groups.saturating_sub(1).checked_mul(stride).and_then(|start| start.checked_add(rows));
        match rows <= stride && self.keys > 0 && last.is_some_and(|last| last <= per_query.len()) {
            true => Ok(()),
            false => {
                let expected = format!("[{groups}, {stride}], of {rows} queries and some keys");
                Err(shape_error(op, argument, expected, &[per_query.len()]))
            }
        }
    }

    fn args(self) -> [Arg; 4] {
        [(self.groups * self.rows).into(), self.rows.into(), self.stride.into(), self.keys.into()]
    }

    unsafe fn launch<L: Launcher, S: Value, T: Value>(self, on: &L, op: &'static str, args: &[Arg]) -> Result<()> {
        let kernel = Kernel::new(FILE, op, &format!("{}_{}", S::NAME, T::NAME));
        // SAFETY: the caller's.
        unsafe { launch(on, kernel, Grid::rows(op, self.groups * self.rows, self.keys)?, args) }
    }
}

/// p = softmax of each row of scores, and its log-sum-exp: scores and p `[groups, rows, keys]`. Either type may be float32
/// or both bfloat16.
///
/// # Errors
/// `SHAPE_MISMATCH` when the extents do not fit; `INTERNAL` when there is no such pair of types.
pub fn softmax<L: Launcher, S: Value, T: Value>(
    on: &L,
    scores: &View<S>,
    p: &mut ViewMut<T>,
    lse: &mut ViewMut<f32>,
    of: ChunkRows,
) -> Result<()> {
    check("softmax", &[("scores", scores, &of.all()), ("p", p, &of.all())])?;
    softmax_between::<L, S, T>(on, scores.arg(), p.arg(), lse, of)
}

/// [`softmax`] over its own input.
///
/// # Errors
/// `SHAPE_MISMATCH` when the extents do not fit.
pub fn softmax_in_place<L: Launcher, T: Value>(
    on: &L,
    scores: &mut ViewMut<T>,
    lse: &mut ViewMut<f32>,
    of: ChunkRows,
) -> Result<()> {
    check("softmax", &[("scores", scores, &of.all())])?;
    softmax_between::<L, T, T>(on, scores.arg(), scores.arg(), lse, of)
}

fn softmax_between<L: Launcher, S: Value, T: Value>(
    on: &L,
    scores: Arg,
    p: Arg,
    lse: &mut ViewMut<f32>,
    of: ChunkRows,
) -> Result<()> {
    of.check("softmax", "lse", lse)?;
    let args = [&[scores, p, lse.arg()], &of.args()[..]].concat();
    // SAFETY: the kernel's parameters, and buffers as long as checked.
    unsafe { of.launch::<L, S, T>(on, "softmax", &args) }
}

/// p = exp(scale·scores − lse): what [`softmax`] made of scale·scores, again.
///
/// # Errors
/// `SHAPE_MISMATCH` when the extents do not fit; `INTERNAL` when there is no such pair of types.
pub fn probabilities<L: Launcher, S: Value, T: Value>(
    on: &L,
    scores: &View<S>,
    lse: &View<f32>,
    p: &mut ViewMut<T>,
    of: ChunkRows,
    scale: f32,
) -> Result<()> {
    check("probabilities", &[("scores", scores, &of.all()), ("p", p, &of.all())])?;
    probabilities_between::<L, S, T>(on, scores.arg(), lse, p.arg(), of, scale)
}

/// [`probabilities`] over their scores.
///
/// # Errors
/// `SHAPE_MISMATCH` when the extents do not fit.
pub fn probabilities_in_place<L: Launcher, T: Value>(
    on: &L,
    scores: &mut ViewMut<T>,
    lse: &View<f32>,
    of: ChunkRows,
    scale: f32,
) -> Result<()> {
    check("probabilities", &[("scores", scores, &of.all())])?;
    probabilities_between::<L, T, T>(on, scores.arg(), lse, scores.arg(), of, scale)
}

fn probabilities_between<L: Launcher, S: Value, T: Value>(
    on: &L,
    scores: Arg,
    lse: &View<f32>,
    p: Arg,
    of: ChunkRows,
    scale: f32,
) -> Result<()> {
    of.check("probabilities", "lse", lse)?;
    let args = [&[scores, lse.arg(), p], &of.args()[..], &[scale.into()]].concat();
    // SAFETY: as above.
    unsafe { of.launch::<L, S, T>(on, "probabilities", &args) }
}

/// ds = p·(dp − delta)·scale: p, dp and ds `[groups, rows, keys]`, delta from [`row_products`].
///
/// # Errors
/// `SHAPE_MISMATCH` when the extents do not fit; `INTERNAL` when there is no such pair of types.
pub fn score_gradient<L: Launcher, S: Value, T: Value>(
    on: &L,
    p: &View<T>,
    dp: &View<S>,
    delta: &View<f32>,
    ds: &mut ViewMut<T>,
    of: ChunkRows,
    scale: f32,
) -> Result<()> {
    check("score_gradient", &[("p", p, &of.all()), ("dp", dp, &of.all()), ("ds", ds, &of.all())])?;
    score_gradient_between::<L, S, T>(on, p, dp.arg(), delta, ds.arg(), of, scale)
}

/// [`score_gradient`] over dp.
///
/// # Errors
/// `SHAPE_MISMATCH` when the extents do not fit.
pub fn score_gradient_in_place<L: Launcher, T: Value>(
    on: &L,
    p: &View<T>,
    dp: &mut ViewMut<T>,
    delta: &View<f32>,
    of: ChunkRows,
    scale: f32,
) -> Result<()> {
    check("score_gradient", &[("p", p, &of.all()), ("dp", dp, &of.all())])?;
    score_gradient_between::<L, T, T>(on, p, dp.arg(), delta, dp.arg(), of, scale)
}

fn score_gradient_between<L: Launcher, S: Value, T: Value>(
    on: &L,
    p: &View<T>,
    dp: Arg,
    delta: &View<f32>,
    ds: Arg,
    of: ChunkRows,
    scale: f32,
) -> Result<()> {
    of.check("score_gradient", "delta", delta)?;
    let args = [&[p.arg(), dp, delta.arg(), ds], &of.args()[..], &[scale.into()]].concat();
    // SAFETY: as above.
    unsafe { of.launch::<L, S, T>(on, "score_gradient", &args) }
}

/// Extents of `[batch, tokens, heads, dim]`.
#[derive(Debug, Clone, Copy)]
pub struct Heads {
    /// Samples.
    pub batch: usize,
    /// Tokens of a sample.
    pub tokens: usize,
    /// Heads of a token.
    pub heads: usize,
    /// Width of a head.
    pub dim: usize,
}

/// delta `[batch, heads, tokens]` = Σ o·g over each head: o and g `[batch, tokens, heads, dim]`, output and its gradient.
///
/// # Errors
/// `SHAPE_MISMATCH` when the extents do not fit.
pub fn row_products<L: Launcher, T: Value>(
    on: &L,
    o: &View<T>,
    g: &View<T>,
    delta: &mut ViewMut<f32>,
    Heads { batch, tokens, heads, dim }: Heads,
) -> Result<()> {
    let (all, op) = ([batch, tokens, heads, dim], "row_products");
    check(op, &[("o", o, &all), ("g", g, &all), ("delta", delta, &[batch, heads, tokens])])?;
    let rows = batch * tokens * heads;
    let args = [o.arg(), g.arg(), delta.arg(), rows.into(), tokens.into(), heads.into(), dim.into()];
    // SAFETY: as above.
    unsafe { launch(on, Kernel::new(FILE, op, T::NAME), Grid::warps(op, rows)?, &args) }
}
