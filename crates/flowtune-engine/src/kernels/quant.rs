//! Quantised weights back to what products take, and stochastic rounding.

use super::buffer::{Buffer, Value, View, ViewMut};
use super::grid::Grid;
use super::launch::{Arg, Kernel, Launcher, check, launch};
use crate::error::Result;
use crate::quant::NF4_BLOCK;

const FILE: &str = "quant";

/// out `[n]` from nf4: two codes in a byte, the first in the high half, scales one for each 64, table [`crate::NF4`] `[16]`.
///
/// # Errors
/// `SHAPE_MISMATCH` when the lengths do not fit.
pub fn nf4<L: Launcher, T: Value>(
    on: &L,
    codes: &View<u8>,
    scales: &View<f32>,
    table: &View<f32>,
    out: &mut ViewMut<T>,
) -> Result<()> {
    let (n, op) = (out.len(), "nf4");
    let bytes = n.div_ceil(2);
    check(op, &[("codes", codes, &[bytes]), ("scales", scales, &[n.div_ceil(NF4_BLOCK)]), ("table", table, &[16])])?;
    let args = [codes.arg(), scales.arg(), table.arg(), out.arg(), n.into()];
    // SAFETY: the kernel's parameters, and buffers as long as checked.
    unsafe { launch(on, Kernel::new(FILE, op, T::NAME), Grid::elements(op, bytes)?, &args) }
}

/// out = scales·data by row: data and out `[rows, dim]`, scales `[rows]`.
///
/// # Errors
/// `SHAPE_MISMATCH` when the extents do not fit.
pub fn int8_rows<L: Launcher, T: Value>(
    on: &L,
    data: &View<i8>,
    scales: &View<f32>,
    out: &mut ViewMut<T>,
    [rows, dim]: [usize; 2],
) -> Result<()> {
    let op = "int8_rows";
    check(op, &[("data", data, &[rows, dim]), ("scales", scales, &[rows]), ("out", out, &[rows, dim])])?;
    let args = [data.arg(), scales.arg(), out.arg(), rows.into(), dim.into()];
    // SAFETY: as above.
    unsafe { launch(on, Kernel::new(FILE, op, T::NAME), Grid::rows(op, rows, dim)?, &args) }
}

/// out = x in bfloat16, rounded up with the probability that the distance to the upper neighbour says: right on average.
/// The same seed and place give the same result; x begins with element `start` of the buffer that the seed is for.
///
/// # Errors
/// `SHAPE_MISMATCH` when the lengths differ.
pub fn stochastic_round<L: Launcher>(
    on: &L,
    x: &View<f32>,
    out: &mut ViewMut<half::bf16>,
    seed: u64,
    start: u64,
) -> Result<()> {
    let (n, op) = (x.len(), "stochastic_round");
    check(op, &[("out", out, &[n])])?;
    let args = [x.arg(), out.arg(), n.into(), Arg::U64(seed), Arg::U64(start)];
    // SAFETY: as above.
    unsafe { launch(on, Kernel::new(FILE, op, "bf16"), Grid::elements(op, n)?, &args) }
}
