//! What optimizers do.

use candle_core::Tensor;

use super::launched;
use super::place::{changed, filled, input};
use crate::device::Kernels;
use crate::error::Result;
use crate::kernels;
use crate::ops::optimizer::AdamWStep;

/// Weight and moments after one step of AdamW. The kernel works in place, on copies: other tensors may share what was given.
pub(crate) fn adamw(
    kernels: Kernels,
    [weight, first, second]: [&Tensor; 3],
    gradient: &Tensor,
    step: AdamWStep,
) -> Option<Result<[Tensor; 3]>> {
    launched!(kernels, weight, on => {
        let run = || {
            let g = input(on, gradient)?;
            let copies = [weight.copy()?, first.copy()?, second.copy()?];
            let [w, m, v] = &copies;
            changed(on, w, |w| {
                changed(on, m, |m| changed(on, v, |v| kernels::adamw(on, w, &g.view, m, v, step)))
            })?;
            Ok(copies)
        };
        run()
    })
}

/// Σ x², a number of the host.
pub(crate) fn sum_of_squares(kernels: Kernels, x: &Tensor) -> Option<Result<f64>> {
    launched!(kernels, x, on => {
        let run = || {
            let xs = input(on, x)?;
            let sum = filled::<_, f64>(on, &[1], |out| kernels::sum_of_squares(on, &xs.view, out))?;
            Ok(sum.to_vec1::<f64>()?[0])
        };
        run()
    })
}
