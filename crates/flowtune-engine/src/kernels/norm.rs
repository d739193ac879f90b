//! LayerNorm with modulation: [`crate::Tape::layer_norm_modulate`].

use super::buffer::{Buffer, Value, View, ViewMut};
use super::grid::Grid;
use super::launch::{Kernel, Launcher, Scratch, check, launch};
use super::sums::sum_chunks;
use crate::error::Result;

const FILE: &str = "norm";
/// Tokens whose gradients of scale and shift one thread adds up.
pub(super) const TOKENS_PER_CHUNK: usize = 64;

/// Extents of x `[batch, tokens, dim]` beside `[batch, dim]`.
#[derive(Debug, Clone, Copy)]
pub struct Modulated {
    /// Samples.
    pub batch: usize,
    /// Tokens of a sample.
    pub tokens: usize,
    /// Width of a token.
    pub dim: usize,
}

impl Modulated {
    pub(super) fn all(self) -> [usize; 3] {
        [self.batch, self.tokens, self.dim]
    }

    pub(super) fn per_sample(self) -> [usize; 2] {
        [self.batch, self.dim]
    }

    /// Rows of x; what they multiply to has been checked with a buffer's length.
    pub(super) fn rows(self) -> usize {
        self.batch * self.tokens
    }

    pub(super) fn chunks(self) -> usize {
        self.tokens.div_ceil(TOKENS_PER_CHUNK)
    }
}

/// out = (1 + scale)·LayerNorm(x) + shift: x and out `[batch, tokens, dim]`, scale and shift `[batch, dim]`.
///
/// # Errors
/// `SHAPE_MISMATCH` when the extents do not fit.
pub fn layer_norm_modulate<L: Launcher, T: Value>(
    on: &L,
    x: &View<f32>,
    scale: &View<f32>,
    shift: &View<f32>,
    out: &mut ViewMut<T>,
    extents: Modulated,
    eps: f32,
) -> Result<()> {
    let (all, per_sample) = (extents.all(), extents.per_sample());
    let op = "layer_norm_modulate";
    check(op, &[("x", x, &all), ("scale", scale, &per_sample), ("shift", shift, &per_sample), ("out", out, &all)])?;
    let Modulated { tokens, dim, .. } = extents;
    let rows = extents.rows();
    let args = [x.arg(), scale.arg(), shift.arg(), out.arg(), rows.into(), tokens.into(), dim.into(), eps.into()];
    // SAFETY: the kernel's parameters, and buffers as long as checked.
    unsafe { launch(on, Kernel::new(FILE, op, T::NAME), Grid::rows(op, rows, dim)?, &args) }
}

/// Gradient of x, float32, from the gradient g of the result, both `[batch, tokens, dim]`.
///
/// # Errors
/// `SHAPE_MISMATCH` when the extents do not fit.
pub fn layer_norm_modulate_dx<L: Launcher, T: Value>(
    on: &L,
    x: &View<f32>,
    scale: &View<f32>,
    g: &View<T>,
    dx: &mut ViewMut<f32>,
    extents: Modulated,
    eps: f32,
) -> Result<()> {
    let (all, op) = (extents.all(), "layer_norm_modulate_dx");
    check(op, &[("x", x, &all), ("scale", scale, &extents.per_sample()), ("g", g, &all), ("dx", dx, &all)])?;
    let Modulated { tokens, dim, .. } = extents;
    let rows = extents.rows();
    let args = [x.arg(), scale.arg(), g.arg(), dx.arg(), rows.into(), tokens.into(), dim.into(), eps.into()];
    // SAFETY: as above.
    unsafe { launch(on, Kernel::new(FILE, op, T::NAME), Grid::rows(op, rows, dim)?, &args) }
}

/// Gradients of scale and shift, `[batch, dim]`, from the gradient g of the result.
///
/// # Errors
/// `SHAPE_MISMATCH` when the extents do not fit, and when there is no memory for partial sums.
pub fn layer_norm_modulation_gradient<L: Launcher, T: Value>(
    on: &L,
    x: &View<f32>,
    g: &View<T>,
    dscale: &mut ViewMut<f32>,
    dshift: &mut ViewMut<f32>,
    extents: Modulated,
    eps: f32,
) -> Result<()> {
    let (all, per_sample) = (extents.all(), extents.per_sample());
    let op = "layer_norm_modulate_sums";
    check(op, &[("x", x, &all), ("g", g, &all), ("dscale", dscale, &per_sample), ("dshift", dshift, &per_sample)])?;
    let Modulated { batch, tokens, dim } = extents;
    let (rows, groups) = (extents.rows(), batch * extents.chunks());
    let moments = Scratch::<L::Memory, f32>::new(on, 2 * rows)?;
    let args = [x.arg(), moments.view().arg(), rows.into(), dim.into(), eps.into()];
    // SAFETY: as above; two moments for each row.
    unsafe { launch(on, Kernel::new(FILE, "layer_norm_moments", "f32"), Grid::rows(op, rows, dim)?, &args)? };
    let scales = Scratch::<L::Memory, f32>::new(on, groups * dim)?;
    let shifts = Scratch::<L::Memory, f32>::new(on, groups * dim)?;
    let args = [
        x.arg(),
        g.arg(),
        moments.view().arg(),
        scales.view().arg(),
        shifts.view().arg(),
        tokens.into(),
        dim.into(),
        TOKENS_PER_CHUNK.into(),
    ];
    // SAFETY: as above; a row of partial sums for each chunk.
    unsafe { launch(on, Kernel::new(FILE, op, T::NAME), Grid::tiles(op, groups, dim)?, &args)? };
    let partial = [batch, extents.chunks(), dim];
    sum_chunks(on, &scales.view(), dscale, partial)?;
    sum_chunks(on, &shifts.view(), dshift, partial)
}
