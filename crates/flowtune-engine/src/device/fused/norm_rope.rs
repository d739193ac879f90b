//! RMSNorm of each head and the rotary embedding.

use candle_core::{DType, Tensor};

use super::launched;
use super::place::{Input, Place, filled, input};
use crate::device::Kernels;
use crate::device::composed::Rope;
use crate::error::Result;
use crate::kernels::{self, RopeHeads};

/// As [`crate::device::composed::rms_norm_rope`].
pub(crate) fn rms_norm_rope(
    kernels: Kernels,
    x: &Tensor,
    weight: &Tensor,
    rope: &Rope,
    eps: f64,
) -> Option<Result<Tensor>> {
    let extents = extents(x, rope)?;
    launched!(kernels, x, x.dtype(), on, T => {
        let run = || {
            let (xs, w, angles) = (input::<_, T>(on, x)?, input(on, weight)?, Angles::of(on, rope)?);
            let of = angles.heads(extents);
            filled::<_, T>(on, x.dims(), |out| {
                kernels::rms_norm_rope(on, &xs.view, &w.view, out, &of, eps as f32)
            })
        };
        run()
    })
}

/// As [`crate::device::composed::rms_norm_rope_input_gradient`].
pub(crate) fn rms_norm_rope_input_gradient(
    kernels: Kernels,
    [x, weight, g]: [&Tensor; 3],
    rope: &Rope,
    eps: f64,
) -> Option<Result<Tensor>> {
    let extents = extents(x, rope)?;
    launched!(kernels, x, x.dtype(), on, T => {
        let run = || {
            let (xs, w, gs) = (input::<_, T>(on, x)?, input(on, weight)?, input::<_, T>(on, g)?);
            let angles = Angles::of(on, rope)?;
            let of = angles.heads(extents);
            filled::<_, T>(on, x.dims(), |out| {
                kernels::rms_norm_rope_dx(on, &xs.view, &w.view, &gs.view, out, &of, eps as f32)
            })
        };
        run()
    })
}

/// As [`crate::device::composed::rms_norm_rope_weight_gradient`].
pub(crate) fn rms_norm_rope_weight_gradient(
    kernels: Kernels,
    x: &Tensor,
    rope: &Rope,
    g: &Tensor,
    eps: f64,
) -> Option<Result<Tensor>> {
    let extents = extents(x, rope)?;
    launched!(kernels, x, x.dtype(), on, T => {
        let run = || {
            let (xs, gs, angles) = (input::<_, T>(on, x)?, input::<_, T>(on, g)?, Angles::of(on, rope)?);
            let of = angles.heads(extents);
            filled(on, &[extents[3]], |out| {
                kernels::rms_norm_rope_dw(on, &xs.view, &gs.view, out, &of, eps as f32)
            })
        };
        run()
    })
}

struct Angles<'a> {
    cos: Input<'a, f32>,
    sin: Input<'a, f32>,
}

impl<'a> Angles<'a> {
    fn of<L: Place>(on: &L, rope: &'a Rope) -> Result<Self> {
        Ok(Self { cos: input(on, &rope.cos)?, sin: input(on, &rope.sin)? })
    }

    fn heads(&self, [batch, tokens, heads, dim]: [usize; 4]) -> RopeHeads<'_> {
        RopeHeads { batch, tokens, heads, dim, cos: &self.cos.view, sin: &self.sin.view }
    }
}

/// `[batch, tokens, heads, dim]`, where the angles are float32.
fn extents(x: &Tensor, rope: &Rope) -> Option<[usize; 4]> {
    let (batch, tokens, heads, dim) = x.dims4().ok().filter(|_| rope.cos.dtype() == DType::F32)?;
    Some([batch, tokens, heads, dim])
}
