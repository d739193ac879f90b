//! What optimizers do to flat float32 buffers: [`crate::ops::optimizer`].

use super::buffer::{Buffer, View, ViewMut};
use super::grid::Grid;
use super::launch::{Arg, Kernel, Launcher, Scratch, check, launch};
use super::sums::sum_f64;
use crate::error::Result;
use crate::ops::optimizer::AdamWStep;

const FILE: &str = "optimizer";
/// Elements whose squares one block adds up.
const PIECE: usize = 1 << 16;

impl AdamWStep {
    /// The last parameters of each kernel.
    pub(super) fn args(self) -> [Arg; 7] {
        let Self { step_size, inverse_root, decay, eps, one_minus_beta1, beta2, one_minus_beta2 } = self;
        [step_size, inverse_root, decay, eps, one_minus_beta1, beta2, one_minus_beta2].map(Arg::F32)
    }
}

/// One step of AdamW on a weight and its two moments, all of one length.
///
/// # Errors
/// `SHAPE_MISMATCH` when the lengths differ.
pub fn adamw<L: Launcher>(
    on: &L,
    weight: &mut ViewMut<f32>,
    gradient: &View<f32>,
    first: &mut ViewMut<f32>,
    second: &mut ViewMut<f32>,
    step: AdamWStep,
) -> Result<()> {
    let (n, op) = (weight.len(), "adamw");
    check(op, &[("gradient", gradient, &[n]), ("first", first, &[n]), ("second", second, &[n])])?;
    let buffers = [weight.arg(), gradient.arg(), first.arg(), second.arg(), n.into()];
    let args = [&buffers, &step.args()[..]].concat();
    // SAFETY: the kernel's parameters, and buffers as long as checked.
    unsafe { launch(on, Kernel::new(FILE, op, "f32"), Grid::elements(op, n)?, &args) }
}

/// out `[1]` = Σ x².
///
/// # Errors
/// When there is no memory for partial sums.
pub fn sum_of_squares<L: Launcher>(on: &L, x: &View<f32>, out: &mut ViewMut<f64>) -> Result<()> {
    let (op, pieces) = ("sum_of_squares", x.len().div_ceil(PIECE));
    let partial = Scratch::<L::Memory, f64>::new(on, pieces)?;
    let args = [x.arg(), partial.view().arg(), x.len().into(), PIECE.into()];
    // SAFETY: as above; a sum for each piece.
    unsafe { launch(on, Kernel::new(FILE, "squares", "f32"), Grid::full(op, pieces)?, &args)? };
    sum_f64(on, &partial.view(), out)
}

/// out `[1]` = Σ x: of the sums of squares of all gradients, the square of their norm.
///
/// # Errors
/// `SHAPE_MISMATCH` when out has another length.
pub fn sum<L: Launcher>(on: &L, x: &View<f64>, out: &mut ViewMut<f64>) -> Result<()> {
    sum_f64(on, x, out)
}

/// Scales x so that the norm whose square is in `squares` `[1]` becomes at most `max_norm`, as `clip_grad_norm_` of torch.
///
/// # Errors
/// `SHAPE_MISMATCH` when `squares` has another length.
pub fn clip<L: Launcher>(on: &L, x: &mut ViewMut<f32>, squares: &View<f64>, max_norm: f32) -> Result<()> {
    check("clip", &[("squares", squares, &[1])])?;
    let args = [x.arg(), squares.arg(), x.len().into(), max_norm.into()];
    // SAFETY: as above.
    unsafe { launch(on, Kernel::new(FILE, "clip", "f32"), Grid::elements("clip", x.len())?, &args) }
}

/// x ← factor·x.
///
/// # Errors
/// What the device says.
pub fn scale<L: Launcher>(on: &L, x: &mut ViewMut<f32>, factor: f32) -> Result<()> {
    let args = [x.arg(), x.len().into(), factor.into()];
    // SAFETY: as above.
    unsafe { launch(on, Kernel::new(FILE, "scale", "f32"), Grid::elements("scale", x.len())?, &args) }
}
