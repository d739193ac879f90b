//! SwiGLU.

use candle_core::Tensor;

use super::launched;
use super::place::{filled, input};
use crate::device::Kernels;
use crate::error::Result;
use crate::kernels;

/// As [`crate::device::composed::swiglu`].
pub(crate) fn swiglu(kernels: Kernels, x: &Tensor) -> Option<Result<Tensor>> {
    let (rows, dim, shape) = halves(x)?;
    launched!(kernels, x, x.dtype(), on, T => {
        let run = || {
            let a = input::<_, T>(on, x)?;
            filled::<_, T>(on, &shape, |out| kernels::swiglu(on, &a.view, out, rows, dim))
        };
        run()
    })
}

/// As [`crate::device::composed::swiglu_backward`].
pub(crate) fn swiglu_backward(kernels: Kernels, x: &Tensor, g: &Tensor) -> Option<Result<Tensor>> {
    let (rows, dim, _) = halves(x)?;
    launched!(kernels, x, x.dtype(), on, T => {
        let run = || {
            let (a, b) = (input::<_, T>(on, x)?, input::<_, T>(on, g)?);
            filled::<_, T>(on, x.dims(), |out| kernels::swiglu_dx(on, &a.view, &b.view, out, rows, dim))
        };
        run()
    })
}

/// Rows, half their width, and the shape of one half.
fn halves(x: &Tensor) -> Option<(usize, usize, Vec<usize>)> {
    let (&width, lead) = x.dims().split_last()?;
    Some((lead.iter().product(), width / 2, [lead, &[width / 2]].concat()))
}
