//! The gated residual connection: [`crate::Tape::gated_residual`].

use super::buffer::{Buffer, Value, View, ViewMut};
use super::grid::Grid;
use super::launch::{Kernel, Launcher, Scratch, check, launch};
use super::norm::{Modulated, TOKENS_PER_CHUNK};
use super::sums::sum_chunks;
use crate::error::Result;

const FILE: &str = "residual";

/// out = x + gate·y: x, y and out `[batch, tokens, dim]`, gate `[batch, dim]`.
///
/// # Errors
/// `SHAPE_MISMATCH` when the extents do not fit.
pub fn gated_residual<L: Launcher, T: Value>(
    on: &L,
    x: &View<f32>,
    gate: &View<f32>,
    y: &View<T>,
    out: &mut ViewMut<f32>,
    extents: Modulated,
) -> Result<()> {
    let (all, op) = (extents.all(), "gated_residual");
    check(op, &[("x", x, &all), ("gate", gate, &extents.per_sample()), ("y", y, &all), ("out", out, &all)])?;
    let Modulated { tokens, dim, .. } = extents;
    let rows = extents.rows();
    let args = [x.arg(), gate.arg(), y.arg(), out.arg(), rows.into(), tokens.into(), dim.into()];
    // SAFETY: the kernel's parameters, and buffers as long as checked.
    unsafe { launch(on, Kernel::new(FILE, op, T::NAME), Grid::rows(op, rows, dim)?, &args) }
}

/// Gradient of y, gate·g, from the gradient g of the result. That of x is g itself.
///
/// # Errors
/// `SHAPE_MISMATCH` when the extents do not fit.
pub fn gated_residual_dy<L: Launcher, T: Value>(
    on: &L,
    g: &View<f32>,
    gate: &View<f32>,
    dy: &mut ViewMut<T>,
    extents: Modulated,
) -> Result<()> {
    let (all, op) = (extents.all(), "gated_residual_dy");
    check(op, &[("g", g, &all), ("gate", gate, &extents.per_sample()), ("dy", dy, &all)])?;
    let Modulated { tokens, dim, .. } = extents;
    let rows = extents.rows();
    let args = [g.arg(), gate.arg(), dy.arg(), rows.into(), tokens.into(), dim.into()];
    // SAFETY: as above.
    unsafe { launch(on, Kernel::new(FILE, op, T::NAME), Grid::rows(op, rows, dim)?, &args) }
}

/// Gradient of the gate `[batch, dim]`, Σ over tokens of g·y.
///
/// # Errors
/// `SHAPE_MISMATCH` when the extents do not fit, and when there is no memory for partial sums.
pub fn gated_residual_gate_gradient<L: Launcher, T: Value>(
    on: &L,
    g: &View<f32>,
    y: &View<T>,
    dgate: &mut ViewMut<f32>,
    extents: Modulated,
) -> Result<()> {
    let (all, op) = (extents.all(), "gated_residual_sums");
    check(op, &[("g", g, &all), ("y", y, &all), ("dgate", dgate, &extents.per_sample())])?;
    let Modulated { batch, tokens, dim } = extents;
    let chunks = extents.chunks();
    let partial = Scratch::<L::Memory, f32>::new(on, batch * chunks * dim)?;
    let args = [g.arg(), y.arg(), partial.view().arg(), tokens.into(), dim.into(), TOKENS_PER_CHUNK.into()];
    // SAFETY: as above; a row of partial sums for each chunk.
    unsafe { launch(on, Kernel::new(FILE, op, T::NAME), Grid::tiles(op, batch * chunks, dim)?, &args)? };
    sum_chunks(on, &partial.view(), dgate, [batch, chunks, dim])
}
