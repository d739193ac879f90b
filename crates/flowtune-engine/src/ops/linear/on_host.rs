//! Linear layers whose operands are on the host: products that read inputs where they lie and write each part to a tensor
//! of its own.

use std::ops::Range;

use super::LowRank;
use super::adapter::Adapter;
use super::backward::{Backward, KeptOfLora};
use super::layout::{Layout, Part, Run};
use super::product::{Base, matrices, slice, sum, term};
use super::roundings::Roundings;
use crate::cpu::gemm::Multiply;
use crate::cpu::mat::{Mat, MatMut};
use crate::cpu::memory::unfilled;
use crate::dtype::Stored;
use crate::error::Result;
use crate::quant::{Block, Side};
use crate::tape::{Tape, Var};
use crate::tensor::Tensor;

impl Tape {
    /// The parts, in O.
    pub(super) fn on_host<T: Multiply, O: Stored<Compute = T::Compute>>(
        &self,
        xs: &[&Var],
        weight: &Var,
        lora: Option<&LowRank>,
        layout: Layout,
    ) -> Result<Vec<Var>> {
        let tensors: Vec<&Tensor> = xs.iter().map(|x| x.tensor()).collect();
        let mats = matrices::<T>(&tensors, &layout)?;
        let adapter =
            lora.map(|LowRank { a, b, scale }| Adapter::<T>::of(a.tensor(), b.tensor(), *scale)).transpose()?;
        let low_rank = adapter.map(|adapter| AtWork::of(adapter, &mats, &layout));
        let base = Base::of::<T>(weight.tensor())?;
        let values = made::<T, O>(mats, &base, low_rank.as_ref(), &layout)?;
        let of_lora = lora.iter().flat_map(|lora| [lora.a, lora.b]);
        let inputs: Vec<&Var> = xs.iter().copied().chain([weight]).chain(of_lora).collect();
        Ok(self.record_many(&inputs, values, |needs| {
            // What only gradients of weights need is not kept for frozen ones.
            let of_weights = needs[xs.len()..].contains(&true);
            let xs = of_weights.then(|| xs.iter().map(|x| x.saved()).collect());
            let of_lora = lora.zip(low_rank).map(|(LowRank { a, b, scale }, AtWork { xa, .. })| KeptOfLora {
                a: a.tensor().clone(),
                b: b.tensor().clone(),
                scale: *scale,
                xa,
            });
            let layer = Backward::<T> { weight: weight.tensor().clone(), xs, lora: of_lora, layout, needs };
            move |gradients| layer.run(gradients)
        }))
    }
}

/// x·Wᵀ.
pub(super) fn forward<T: Multiply>(x: &Tensor, weight: &Tensor, layout: &Layout) -> Result<Tensor> {
    Ok(made::<T, T>(matrices(&[x], layout)?, &Base::of::<T>(weight)?, None, layout)?.remove(0))
}

/// An adapter, and scale·x·Aᵀ.
struct AtWork<T: Stored> {
    adapter: Adapter<T>,
    /// `[rows, rank]`
    xa: Roundings<T>,
}

impl<T: Multiply> AtWork<T> {
    fn of(adapter: Adapter<T>, xs: &[Mat<T>], layout: &Layout) -> Self {
        let terms: Vec<_> =
            xs.iter().zip(&layout.columns).map(|(&x, columns)| term(x, adapter.a_once(columns).t())).collect();
        let xa = adapter.narrow(sum(&terms, adapter.scale));
        Self { adapter, xa }
    }
}

/// The parts.
fn made<T: Multiply, O: Stored<Compute = T::Compute>>(
    xs: Vec<Mat<T>>,
    base: &Base,
    low_rank: Option<&AtWork<T>>,
    layout: &Layout,
) -> Result<Vec<Tensor>> {
    let blocks = |outputs: &Range<usize>| -> Vec<Block> {
        layout.columns.iter().map(|inputs| Block { outputs: outputs.clone(), inputs: inputs.clone() }).collect()
    };
    let x = base.facing(xs, &blocks(&(0..layout.outputs())), Side::Forward)?;
    let of_part = |(part, Part { outputs, .. }): (usize, &Part)| {
        let blocks = blocks(outputs);
        let mut y = unfilled::<O>(layout.rows_of(part) * outputs.len());
        let mut out = MatMut::new(&mut y, outputs.len());
        for Run { rows, parts } in layout.runs(|other| other == part) {
            let Some(&(_, first)) = parts.first() else { continue };
            let low_rank =
                low_rank.map(|AtWork { adapter, xa }| term(slice(xa.all(), &rows), adapter.b_all(outputs).t()));
            base.combine(out.slice_rows(first, rows.len()), &x, &rows, &blocks, low_rank)?;
        }
        Ok(Tensor::new(y, &layout.output_shape(part)))
    };
    layout.parts.iter().enumerate().map(of_part).collect()
}
