//! Linear layers whose operands are on a device.

use candle_core::{DType as Kind, Tensor as Twin};

use super::layout::Layout;
use super::{LowRank, OP};
use crate::device::{self, Kernels, Weight, composed};
use crate::error::{Error, Result};
use crate::saved::Saved;
use crate::tape::{Tape, Var};
use crate::tensor::Tensor;

pub(super) struct OnDevice {
    kernels: Kernels,
    /// `[rows, in]`
    x: Twin,
    weight: Weight,
    low_rank: Option<composed::LowRank>,
}

impl OnDevice {
    /// None when the operands are on the host.
    pub(super) fn of(x: &Var, weight: &Var, low_rank: Option<&LowRank>) -> Result<Option<Self>> {
        let Some((kernels, x, weight)) = operands(x.tensor(), weight.tensor())? else { return Ok(None) };
        let low_rank = match low_rank {
            None => None,
            Some(LowRank { a, b, scale }) => {
                let Some((_, [a, b])) = device::operands(OP, [a.tensor(), b.tensor()])? else {
                    return Err(Error::Device { op: OP });
                };
                Some(composed::LowRank::new(&a, &b, *scale, x.dtype())?)
            }
        };
        Ok(Some(Self { kernels, x, weight, low_rank }))
    }
}

/// The rows of x and the weight, when x is on a device. The weight may rest on the host.
pub(super) fn operands(x: &Tensor, weight: &Tensor) -> Result<Option<(Kernels, Twin, Weight)>> {
    match device::operands(OP, [x])? {
        Some((kernels, [x])) => Ok(Some((kernels, as_rows(&x)?, Weight::of(OP, weight, kernels)?))),
        None if weight.device().is_cpu() => Ok(None),
        None => Err(Error::Device { op: OP }),
    }
}

/// The last dimension as columns, all others as rows.
fn as_rows(x: &Twin) -> candle_core::Result<Twin> {
    x.reshape(((), x.dim(candle_core::D::Minus1)?))
}

/// The rows of a tensor on a device.
fn rows(x: &Tensor) -> Result<Twin> {
    match device::operands(OP, [x])? {
        Some((_, [x])) => Ok(as_rows(&x)?),
        None => Err(Error::Device { op: OP }),
    }
}

impl Tape {
    pub(super) fn on_device(
        &self,
        layer: OnDevice,
        x: &Var,
        weight: &Var,
        lora: Option<&LowRank>,
        out: Kind,
        layout: &Layout,
    ) -> Result<Var> {
        let on = layer.kernels;
        let value = device::linear(on, &layer.x, &layer.weight, layer.low_rank.as_ref(), out)?;
        let value = value.reshape(&layout.output_shape(0))?;
        let inputs: Vec<&Var> = [x, weight].into_iter().chain(lora.iter().flat_map(|lora| [lora.a, lora.b])).collect();
        let x_shape = layout.input_shape(0);
        Ok(self.record(&inputs, value, |needs| {
            let OnDevice { x: read, weight, low_rank, .. } = layer;
            // What only gradients of weights need is not kept for frozen ones.
            let (dtype, saved) = (read.dtype(), needs[1..].contains(&true).then(|| x.saved()));
            move |g: Tensor| {
                let g = rows(&g)?.to_dtype(dtype)?;
                let x = saved.as_ref().map(Saved::get).transpose()?.as_ref().map(rows).transpose()?;
                let mut gradients = device::linear_backward(on, x.as_ref(), &weight, low_rank.as_ref(), &g, &needs)?;
                gradients[0] = gradients[0].take().map(|dx| dx.reshape(&x_shape)).transpose()?;
                Ok(gradients)
            }
        }))
    }
}
