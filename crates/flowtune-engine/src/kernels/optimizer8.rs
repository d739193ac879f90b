//! AdamW whose moments take a byte each (arXiv:2110.02861), in blocks of 256 as bitsandbytes has them.

use super::buffer::{Buffer, View, ViewMut};
use super::grid::{Grid, THREADS};
use super::launch::{Kernel, Launcher, check, launch};
use crate::error::Result;
use crate::ops::optimizer::AdamWStep;

/// Moments that share a scale.
pub const MOMENTS_PER_SCALE: usize = THREADS;

/// A moment of each element of a weight: codes `[n]` into a table `[256]`, and the largest magnitude of each block of 256.
pub struct Moments8<'a> {
    /// Indices into the table.
    pub codes: ViewMut<'a, u8>,
    /// One for each [`MOMENTS_PER_SCALE`].
    pub scales: ViewMut<'a, f32>,
    /// [`dynamic_table`], signed for the first moment and not for the second.
    pub table: View<'a, f32>,
}

/// One step of AdamW; the weight moves by the moments before they are rounded. Moments of zero are codes of the table's 0
/// with scale 0.
///
/// # Errors
/// `SHAPE_MISMATCH` when the lengths do not fit.
pub fn adamw8<L: Launcher>(
    on: &L,
    weight: &mut ViewMut<f32>,
    gradient: &View<f32>,
    first: &mut Moments8,
    second: &mut Moments8,
    step: AdamWStep,
) -> Result<()> {
    let (n, op) = (weight.len(), "adamw8");
    check(op, &[("gradient", gradient, &[n])])?;
    for moments in [&*first, &*second] {
        let scales = n.div_ceil(MOMENTS_PER_SCALE);
        check(op, &[("codes", &moments.codes, &[n]), ("scales", &moments.scales, &[scales])])?;
        check(op, &[("table", &moments.table, &[256])])?;
    }
    let buffers = [
        weight.arg(),
        gradient.arg(),
        first.codes.arg(),
        first.scales.arg(),
        second.codes.arg(),
        second.scales.arg(),
        first.table.arg(),
        second.table.arg(),
        n.into(),
    ];
    let args = [&buffers, &step.args()[..]].concat();
    // SAFETY: the kernel's parameters, and buffers as long as checked.
    unsafe { launch(on, Kernel::new("optimizer", op, "f32"), Grid::elements(op, n)?, &args) }
}

/// The 256 values of bitsandbytes' `create_dynamic_map(signed)`, ascending: seven decades, each cut finer than the one below.
pub fn dynamic_table(signed: bool) -> [f32; 256] {
    const DECADES: i32 = 7;
    let mut table = vec![0.0, 1.0];
    for decade in 0..DECADES {
        let size = 10f64.powi(decade + 1 - DECADES);
        let values = 1u32 << (decade + i32::from(!signed));
        for i in 0..values {
            // The middle of each part of 0.1..1.
            let value = size * (0.1 + 0.9 * (f64::from(i) + 0.5) / f64::from(values));
            table.push(value as f32);
            if signed {
                table.push(-value as f32);
            }
        }
    }
    table.sort_by(f32::total_cmp);
    table.try_into().expect("two and 254 values")
}
