//! RMSNorm of each head and the rotary embedding: [`crate::Tape::rms_norm_rope`].

use super::buffer::{Buffer, Value, View, ViewMut};
use super::grid::Grid;
use super::launch::{Arg, Kernel, Launcher, Scratch, check, launch};
use super::sums::sum_chunks;
use crate::error::{Result, shape_error};

const FILE: &str = "norm_rope";
/// Heads of tokens whose gradients of the weight one thread adds up.
const ROWS_PER_CHUNK: usize = 256;

/// x `[batch, tokens, heads, dim]` and the angles of its tokens, cos and sin `[1 or batch, tokens, dim / 2]`.
pub struct RopeHeads<'a> {
    /// Samples.
    pub batch: usize,
    /// Tokens of a sample.
    pub tokens: usize,
    /// Heads of a token.
    pub heads: usize,
    /// Width of a head.
    pub dim: usize,
    /// Cosines.
    pub cos: &'a View<'a, f32>,
    /// Sines.
    pub sin: &'a View<'a, f32>,
}

impl RopeHeads<'_> {
    fn all(&self) -> [usize; 4] {
        [self.batch, self.tokens, self.heads, self.dim]
    }

    /// Rows of x; what they multiply to has been checked with a buffer's length.
    fn rows(&self) -> usize {
        self.batch * self.tokens * self.heads
    }

    fn check(&self, op: &'static str) -> Result<()> {
        let half = self.dim / 2;
        if self.dim % 2 == 1 {
            return Err(shape_error(op, "x", "[batch, tokens, heads, 2·pairs]", &self.all()));
        }
        let samples = if self.shared() { 1 } else { self.batch };
        let extents = [samples, self.tokens, half];
        check(op, &[("cos", self.cos, &extents), ("sin", self.sin, &extents)])
    }

    /// Whether all samples have the same angles.
    fn shared(&self) -> bool {
        self.cos.len() == self.tokens * (self.dim / 2)
    }

    /// The last parameters of each kernel.
    fn args(&self) -> [Arg; 7] {
        let Self { tokens, heads, .. } = *self;
        let half = self.dim / 2;
        let shared = self.shared().into();
        [self.cos.arg(), self.sin.arg(), self.rows().into(), tokens.into(), heads.into(), half.into(), shared]
    }
}

/// out = each head of x over its root mean square, times the weight `[dim]`, rotated: x and out `[batch, tokens, heads, dim]`.
///
/// # Errors
/// `SHAPE_MISMATCH` when the extents do not fit.
pub fn rms_norm_rope<L: Launcher, T: Value>(
    on: &L,
    x: &View<T>,
    weight: &View<f32>,
    out: &mut ViewMut<T>,
    of: &RopeHeads,
    eps: f32,
) -> Result<()> {
    let (all, op) = (of.all(), "rms_norm_rope");
    check(op, &[("x", x, &all), ("weight", weight, &[of.dim]), ("out", out, &all)])?;
    of.check(op)?;
    let args = [&[x.arg(), weight.arg(), out.arg(), eps.into()], &of.args()[..]].concat();
    // SAFETY: the kernel's parameters, and buffers as long as checked.
    unsafe { launch(on, Kernel::new(FILE, op, T::NAME), Grid::warps(op, of.rows())?, &args) }
}

/// Gradient of x from the gradient g of the result, all `[batch, tokens, heads, dim]`.
///
/// # Errors
/// `SHAPE_MISMATCH` when the extents do not fit.
pub fn rms_norm_rope_dx<L: Launcher, T: Value>(
    on: &L,
    x: &View<T>,
    weight: &View<f32>,
    g: &View<T>,
    dx: &mut ViewMut<T>,
    of: &RopeHeads,
    eps: f32,
) -> Result<()> {
    let (all, op) = (of.all(), "rms_norm_rope_dx");
    check(op, &[("x", x, &all), ("weight", weight, &[of.dim]), ("g", g, &all), ("dx", dx, &all)])?;
    of.check(op)?;
    let args = [&[x.arg(), weight.arg(), g.arg(), dx.arg(), eps.into()], &of.args()[..]].concat();
    // SAFETY: as above.
    unsafe { launch(on, Kernel::new(FILE, op, T::NAME), Grid::warps(op, of.rows())?, &args) }
}

/// Gradient of the weight `[dim]`, float32, from the gradient g of the result.
///
/// # Errors
/// `SHAPE_MISMATCH` when the extents do not fit, and when there is no memory for partial sums.
pub fn rms_norm_rope_dw<L: Launcher, T: Value>(
    on: &L,
    x: &View<T>,
    g: &View<T>,
    dw: &mut ViewMut<f32>,
    of: &RopeHeads,
    eps: f32,
) -> Result<()> {
    let (all, op) = (of.all(), "rms_norm_rope_dw");
    check(op, &[("x", x, &all), ("g", g, &all), ("dw", dw, &[of.dim])])?;
    of.check(op)?;
    let (rows, dim) = (of.rows(), of.dim);
    let inverse = Scratch::<L::Memory, f32>::new(on, rows)?;
    let args = [x.arg(), inverse.view().arg(), rows.into(), dim.into(), eps.into()];
    // SAFETY: as above; one number for each row.
    unsafe { launch(on, Kernel::new(FILE, "inverse_rms", T::NAME), Grid::warps(op, rows)?, &args)? };
    let chunks = rows.div_ceil(ROWS_PER_CHUNK);
    let partial = Scratch::<L::Memory, f32>::new(on, chunks * dim)?;
    let first = [x.arg(), g.arg(), inverse.view().arg(), partial.view().arg(), ROWS_PER_CHUNK.into()];
    let args = [&first, &of.args()[..]].concat();
    // SAFETY: as above; a row of partial sums for each chunk, a thread for each pair of columns.
    unsafe { launch(on, Kernel::new(FILE, op, T::NAME), Grid::tiles(op, chunks, dim / 2)?, &args)? };
    sum_chunks(on, &partial.view(), dw, [1, chunks, dim])
}
