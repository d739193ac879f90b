//! The weighted squared error: [`crate::Tape::weighted_mse`].

use super::buffer::{Buffer, View, ViewMut};
use super::grid::Grid;
use super::launch::{Arg, Kernel, Launcher, Scratch, check, launch};
use crate::error::Result;

const FILE: &str = "loss";
/// Elements that one block adds up; `PIECE` of the kernel.
const PIECE: usize = 4096;

fn mask_arg(mask: Option<&View<f32>>) -> Arg {
    mask.map_or(Arg::Pointer(0), Buffer::arg)
}

/// out `[3]` = the mean of weight·mask·(prediction − target)², the same with all weights 1, and what the mean is over
/// (elements, or the sum of the mask): prediction, target and mask `[batch, row]`, weight `[batch]`. A mask that leaves
/// nothing makes the first two NaN.
///
/// # Errors
/// `SHAPE_MISMATCH` when the extents do not fit, and when there is no memory for partial sums.
pub fn weighted_mse<L: Launcher>(
    on: &L,
    prediction: &View<f32>,
    target: &View<f32>,
    weight: &View<f32>,
    mask: Option<&View<f32>>,
    out: &mut ViewMut<f64>,
    [batch, row]: [usize; 2],
) -> Result<()> {
    let (all, op) = ([batch, row], "weighted_mse");
    check(op, &[("prediction", prediction, &all), ("target", target, &all), ("weight", weight, &[batch])])?;
    check(op, &[("mask", mask.unwrap_or(target), &all), ("out", out, &[3])])?;
    let pieces = row.div_ceil(PIECE);
    let errors = Scratch::<L::Memory, f64>::new(on, batch * pieces)?;
    let counts = Scratch::<L::Memory, f64>::new(on, batch * pieces)?;
    let [errors, counts] = [errors.view(), counts.view()];
    let args = [prediction.arg(), target.arg(), mask_arg(mask), errors.arg(), counts.arg(), row.into()];
    // SAFETY: the kernel's parameters, and buffers as long as checked; two sums for each piece.
    unsafe { launch(on, Kernel::new(FILE, "weighted_mse_sums", "f32"), Grid::full(op, batch * pieces)?, &args)? };
    let args = [errors.arg(), counts.arg(), weight.arg(), out.arg(), batch.into(), pieces.into()];
    // SAFETY: as above.
    unsafe { launch(on, Kernel::new(FILE, op, "f32"), Grid::full(op, 1)?, &args) }
}

/// Gradient of the prediction, g·2/count·weight·mask·(prediction − target): g `[1]`, the gradient of the loss, and count
/// `[1]`, the third number of [`weighted_mse`], are read on the device.
///
/// # Errors
/// `SHAPE_MISMATCH` when the extents do not fit.
pub fn weighted_mse_dx<L: Launcher>(
    on: &L,
    prediction: &View<f32>,
    target: &View<f32>,
    weight: &View<f32>,
    mask: Option<&View<f32>>,
    g: &View<f32>,
    count: &View<f64>,
    dx: &mut ViewMut<f32>,
    [batch, row]: [usize; 2],
) -> Result<()> {
    let (all, op) = ([batch, row], "weighted_mse_dx");
    check(op, &[("prediction", prediction, &all), ("target", target, &all), ("weight", weight, &[batch])])?;
    check(op, &[("mask", mask.unwrap_or(target), &all), ("g", g, &[1]), ("count", count, &[1]), ("dx", dx, &all)])?;
    let args = [
        prediction.arg(),
        target.arg(),
        weight.arg(),
        mask_arg(mask),
        g.arg(),
        count.arg(),
        dx.arg(),
        (batch * row).into(),
        row.into(),
    ];
    // SAFETY: as above.
    unsafe { launch(on, Kernel::new(FILE, op, "f32"), Grid::elements(op, batch * row)?, &args) }
}
