//! The gated residual connection.

use candle_core::{DType, Tensor};

use super::launched;
use super::place::{filled, input};
use crate::device::Kernels;
use crate::error::Result;
use crate::kernels::{self, Modulated};

/// As [`crate::device::composed::gated_residual`].
pub(crate) fn gated_residual(kernels: Kernels, x: &Tensor, gate: &Tensor, y: &Tensor) -> Option<Result<Tensor>> {
    let extents = extents(x)?;
    launched!(kernels, x, y.dtype(), on, T => {
        let run = || {
            let (a, b, c) = (input(on, x)?, input(on, gate)?, input::<_, T>(on, y)?);
            filled(on, x.dims(), |out| kernels::gated_residual(on, &a.view, &b.view, &c.view, out, extents))
        };
        run()
    })
}

/// As [`crate::device::composed::gated`].
pub(crate) fn gated(kernels: Kernels, g: &Tensor, gate: &Tensor, dtype: DType) -> Option<Result<Tensor>> {
    let extents = extents(g)?;
    launched!(kernels, g, dtype, on, T => {
        let run = || {
            let (a, b) = (input(on, g)?, input(on, gate)?);
            filled::<_, T>(on, g.dims(), |out| kernels::gated_residual_dy(on, &a.view, &b.view, out, extents))
        };
        run()
    })
}

/// As [`crate::device::composed::gate_gradient`].
pub(crate) fn gate_gradient(kernels: Kernels, y: &Tensor, g: &Tensor) -> Option<Result<Tensor>> {
    let extents = extents(g)?;
    launched!(kernels, g, y.dtype(), on, T => {
        let run = || {
            let (a, b) = (input(on, g)?, input::<_, T>(on, y)?);
            let shape = [extents.batch, extents.dim];
            filled(on, &shape, |out| kernels::gated_residual_gate_gradient(on, &a.view, &b.view, out, extents))
        };
        run()
    })
}

/// Extents of float32 `[batch, tokens, dim]`.
pub(super) fn extents(x: &Tensor) -> Option<Modulated> {
    let (batch, tokens, dim) = x.dims3().ok().filter(|_| x.dtype() == DType::F32)?;
    Some(Modulated { batch, tokens, dim })
}
