//! What optimizers do.

use candle_core::Tensor;

use super::launched;
use super::place::{Room, changed, input};
use crate::device::Kernels;
use crate::error::Result;
use crate::kernels;
use crate::ops::optimizer::AdamWStep;

/// The weight after one step of AdamW; the moments, which nothing else may hold, are changed in place. The weight is a copy,
/// since values of a tape may share its memory.
pub(crate) fn adamw(
    kernels: Kernels,
    weight: &Tensor,
    gradient: &Tensor,
    [first, second]: [&Tensor; 2],
    step: AdamWStep,
) -> Option<Result<Tensor>> {
    launched!(kernels, weight, on => {
        let run = || {
            let (g, moved) = (input(on, gradient)?, weight.copy()?);
            changed(on, &moved, |w| {
                changed(on, first, |m| changed(on, second, |v| kernels::adamw(on, w, &g.view, m, v, step)))
            })?;
            Ok(moved)
        };
        run()
    })
}

/// Σ x² of each, read once.
pub(crate) fn sums_of_squares(kernels: Kernels, tensors: &[Tensor]) -> Option<Result<Vec<f64>>> {
    launched!(kernels, tensors.first()?, on => {
        let run = || {
            let mut sums = Room::<f64>::new(on, tensors.len())?;
            for (i, x) in tensors.iter().enumerate() {
                let (xs, mut all) = (input(on, x)?, sums.view_mut());
                kernels::sum_of_squares(on, &xs.view, &mut all.slice(i, 1).expect("one for each"))?;
            }
            Ok(sums.tensor(&[tensors.len()]).to_vec1()?)
        };
        run()
    })
}
