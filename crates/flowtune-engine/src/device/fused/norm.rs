//! LayerNorm with modulation.

use candle_core::{DType, Tensor};

use super::launched;
use super::place::{filled, input};
use super::residual::extents;
use crate::device::Kernels;
use crate::error::Result;
use crate::kernels;

/// As [`crate::device::composed::layer_norm_modulate`].
pub(crate) fn layer_norm_modulate(
    kernels: Kernels,
    [x, scale, shift]: [&Tensor; 3],
    eps: f64,
    dtype: DType,
) -> Option<Result<Tensor>> {
    let extents = extents(x)?;
    launched!(kernels, x, dtype, on, T => {
        let run = || {
            let (a, b, c) = (input(on, x)?, input(on, scale)?, input(on, shift)?);
            filled::<_, T>(on, x.dims(), |out| {
                kernels::layer_norm_modulate(on, &a.view, &b.view, &c.view, out, extents, eps as f32)
            })
        };
        run()
    })
}

/// As [`crate::device::composed::layer_norm_modulate_backward`].
pub(crate) fn layer_norm_modulate_backward(
    kernels: Kernels,
    [x, scale, g]: [&Tensor; 3],
    eps: f64,
    needs: &[bool],
) -> Option<Result<[Option<Tensor>; 3]>> {
    let (extents, eps) = (extents(x)?, eps as f32);
    launched!(kernels, x, g.dtype(), on, T => {
        let run = || {
            let (xs, scales, gs) = (input(on, x)?, input(on, scale)?, input::<_, T>(on, g)?);
            let dx = || {
                filled(on, x.dims(), |out| {
                    kernels::layer_norm_modulate_dx(on, &xs.view, &scales.view, &gs.view, out, extents, eps)
                })
            };
            let dx = needs[0].then(dx).transpose()?;
            if !needs[1] && !needs[2] {
                return Ok([dx, None, None]);
            }
            let (mut dscale, shape) = (None, [extents.batch, extents.dim]);
            let dshift = filled(on, &shape, |dshift| {
                dscale = Some(filled(on, &shape, |dscale| {
                    kernels::layer_norm_modulation_gradient(on, &xs.view, &gs.view, dscale, dshift, extents, eps)
                })?);
                Ok(())
            })?;
            Ok([dx, dscale.filter(|_| needs[1]), needs[2].then_some(dshift)])
        };
        run()
    })
}
