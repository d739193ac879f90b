//! Linear layers without bias, with an optional low-rank addition in the same operation.

mod adapter;
mod backward;
mod layout;
mod on_device;
mod on_host;
mod product;
mod roundings;
#[cfg(test)]
mod tests;

use crate::cpu::gemm::Multiply;
use crate::device;
use crate::dtype::{Stored, with_real, with_stored};
use crate::error::Result;
use crate::tape::{Tape, Var};
use crate::tensor::Tensor;
use layout::Layout;
pub use layout::Part;
use on_device::OnDevice;

const OP: &str = "linear";

/// A low-rank addition scale·B·A to a linear layer (LoRA, arXiv:2106.09685).
#[derive(Debug, Clone, Copy)]
pub struct LowRank<'a> {
    /// A, `[rank, in]`.
    pub a: &'a Var,
    /// B, `[out, rank]`.
    pub b: &'a Var,
    /// alpha / rank.
    pub scale: f64,
}

impl Tape {
    /// x·Wᵀ, plus scale·(x·Aᵀ)·Bᵀ: x `[.., in]`, weight `[out, in]` → `[.., out]`, in the type of x. Weights may be wider
    /// (float32 masters of a bfloat16 computation); they are rounded for the product, and their gradients are sums in
    /// float32.
    ///
    /// Frozen weights cost a forward product and one for the gradient of x; nothing is kept for them.
    ///
    /// # Errors
    /// `SHAPE_MISMATCH` when the extents do not fit.
    pub fn linear(&self, x: &Var, weight: &Var, low_rank: Option<LowRank>) -> Result<Var> {
        with_stored!(x.tensor().dtype(), OP, T => self.whole::<T, T>(x, weight, low_rank))
    }

    /// As [`Tape::linear`], but sums in float32 stay so when x is bfloat16.
    ///
    /// # Errors
    /// As [`Tape::linear`].
    pub fn linear_wide(&self, x: &Var, weight: &Var, low_rank: Option<LowRank>) -> Result<Var> {
        with_stored!(x.tensor().dtype(), OP, T => self.whole::<T, <T as Stored>::Compute>(x, weight, low_rank))
    }

    /// As [`Tape::linear`] of inputs that lie side by side, xᵢ `[batch, tokens, inᵢ]` with Σ inᵢ = in, and only some `parts`
    /// of what comes out, in the order of their outputs: `[batch, tokens, outputs]` each.
    ///
    /// On the host nothing is joined or cut, and what no part asks for is not computed.
    ///
    /// # Errors
    /// `SHAPE_MISMATCH` when the extents do not fit, or parts have outputs in common.
    pub fn linear_parts(
        &self,
        xs: &[&Var],
        weight: &Var,
        low_rank: Option<LowRank>,
        parts: &[Part],
    ) -> Result<Vec<Var>> {
        let layout = Layout::of_parts(xs, weight.tensor(), low_rank.as_ref(), parts)?;
        let (x, w) = (xs[0].tensor(), weight.tensor());
        if !x.device().is_cpu() || !w.device().is_cpu() {
            return self.joined_and_cut(xs, weight, low_rank, parts);
        }
        with_stored!(x.dtype(), OP, T => self.on_host::<T, T>(xs, weight, low_rank.as_ref(), layout))
    }

    fn whole<T: Multiply, O: Stored<Compute = T::Compute>>(
        &self,
        x: &Var,
        weight: &Var,
        low_rank: Option<LowRank>,
    ) -> Result<Var> {
        let layout = Layout::whole(x.tensor(), weight.tensor(), low_rank.as_ref())?;
        if let Some(on_device) = OnDevice::of(x, weight, low_rank.as_ref())? {
            return self.on_device(on_device, x, weight, low_rank.as_ref(), O::DTYPE, &layout);
        }
        Ok(self.on_host::<T, O>(&[x], weight, low_rank.as_ref(), layout)?.remove(0))
    }

    /// [`Tape::linear_parts`] on a device, of other operations.
    fn joined_and_cut(&self, xs: &[&Var], weight: &Var, low_rank: Option<LowRank>, parts: &[Part]) -> Result<Vec<Var>> {
        let x = if let [x] = xs { (*x).clone() } else { self.cat_last(xs)? };
        let y = self.linear(&x, weight, low_rank)?;
        let of_outputs = self.cut_outputs(&y, parts)?;
        let of_tokens = |(piece, Part { tokens, .. }): (Var, &Part)| match tokens.len() == x.tensor().dim(1) {
            true => Ok(piece),
            false => self.narrow(&piece, 1, tokens.start, tokens.len()),
        };
        of_outputs.into_iter().zip(parts).map(of_tokens).collect()
    }

    fn cut_outputs(&self, y: &Var, parts: &[Part]) -> Result<Vec<Var>> {
        let outputs = y.tensor().last_dim();
        if let [Part { outputs: all, .. }] = parts
            && all.len() == outputs
        {
            return Ok(vec![y.clone()]);
        }
        let (mut sizes, mut end) = (Vec::new(), 0);
        for Part { outputs, .. } in parts {
            sizes.extend([outputs.start - end, outputs.len()]);
            end = outputs.end;
        }
        sizes.push(outputs - end);
        Ok(self.split_last(y, &sizes)?.into_iter().skip(1).step_by(2).collect())
    }
}

/// x·Wᵀ + bias, forward only: x `[.., in]`, weight `[out, in]`, bias `[out]`.
///
/// # Errors
/// `SHAPE_MISMATCH` when the extents do not fit.
pub fn linear_bias(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    let layout = Layout::whole(x, weight, None)?;
    if let Some((on, rows, weight)) = on_device::operands(x, weight)? {
        let y = device::linear(on, &rows, &weight, None, rows.dtype())?.reshape(&layout.output_shape(0))?;
        let (Some(bias), Some(y)) = (device::optional(OP, bias)?, y.on_device()?) else { return Ok(y) };
        return device::made(on, y.twin.broadcast_add(&bias));
    }
    with_real!(x.dtype(), OP, T => {
        let mut y = on_host::forward::<T>(x, weight, &layout)?;
        if let Some(bias) = bias {
            let bias = bias.as_slice::<T>()?;
            for row in y.as_mut_slice::<T>()?.chunks_mut(layout.outputs()) {
                row.iter_mut().zip(bias).for_each(|(y, &b)| *y += b);
            }
        }
        Ok(y)
    })
}
