//! The gated activation: [`crate::Tape::swiglu`].

use super::buffer::{Buffer, Value, View, ViewMut};
use super::grid::Grid;
use super::launch::{Kernel, Launcher, check, launch};
use crate::error::Result;

const FILE: &str = "swiglu";

/// out = silu(first half)·second half of each row: x `[rows, 2·dim]` → out `[rows, dim]`.
///
/// # Errors
/// `SHAPE_MISMATCH` when the extents do not fit.
pub fn swiglu<L: Launcher, T: Value>(on: &L, x: &View<T>, out: &mut ViewMut<T>, rows: usize, dim: usize) -> Result<()> {
    let op = "swiglu";
    check(op, &[("x", x, &[rows, 2, dim]), ("out", out, &[rows, dim])])?;
    let args = [x.arg(), out.arg(), rows.into(), dim.into()];
    // SAFETY: the kernel's parameters, and buffers as long as checked.
    unsafe { launch(on, Kernel::new(FILE, op, T::NAME), Grid::rows(op, rows, dim)?, &args) }
}

/// Gradient of x `[rows, 2·dim]` from the gradient g `[rows, dim]` of the result.
///
/// # Errors
/// `SHAPE_MISMATCH` when the extents do not fit.
pub fn swiglu_dx<L: Launcher, T: Value>(
    on: &L,
    x: &View<T>,
    g: &View<T>,
    dx: &mut ViewMut<T>,
    rows: usize,
    dim: usize,
) -> Result<()> {
    let op = "swiglu_dx";
    check(op, &[("x", x, &[rows, 2, dim]), ("g", g, &[rows, dim]), ("dx", dx, &[rows, 2, dim])])?;
    let args = [x.arg(), g.arg(), dx.arg(), rows.into(), dim.into()];
    // SAFETY: as above.
    unsafe { launch(on, Kernel::new(FILE, op, T::NAME), Grid::rows(op, rows, dim)?, &args) }
}
