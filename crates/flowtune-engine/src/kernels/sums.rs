//! Sums over rows, in chunks: their second half.

use super::buffer::{Buffer, View, ViewMut};
use super::grid::Grid;
use super::launch::{Kernel, Launcher, check, launch};
use crate::error::Result;

/// Adds up chunks: partial `[batch, chunks, dim]` → out `[batch, dim]`.
pub(super) fn sum_chunks<L: Launcher>(
    on: &L,
    partial: &View<f32>,
    out: &mut ViewMut<f32>,
    [batch, chunks, dim]: [usize; 3],
) -> Result<()> {
    check("sum_chunks", &[("partial", partial, &[batch, chunks, dim]), ("out", out, &[batch, dim])])?;
    let args = [partial.arg(), out.arg(), batch.into(), chunks.into(), dim.into()];
    let grid = Grid::narrow_tiles("sum_chunks", batch, dim)?;
    // SAFETY: the kernel's parameters, and buffers as long as checked.
    unsafe { launch(on, Kernel::new("sums", "sum_chunks", "f32"), grid, &args) }
}

/// out `[1]` = Σ x.
pub(super) fn sum_f64<L: Launcher>(on: &L, x: &View<f64>, out: &mut ViewMut<f64>) -> Result<()> {
    check("sum", &[("out", out, &[1])])?;
    let args = [x.arg(), out.arg(), x.len().into()];
    // SAFETY: as above.
    unsafe { launch(on, Kernel::new("sums", "sum", "f64"), Grid::full("sum", 1)?, &args) }
}
