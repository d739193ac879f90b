//! The backward of linear layers on the host.

use std::ops::Range;

use super::adapter::Adapter;
use super::layout::{Layout, Run};
use super::product::{Base, matrices, matrix, multiply, one, slice, sum, term};
use super::roundings::Roundings;
use crate::cpu::gemm::Multiply;
use crate::cpu::mat::{Mat, MatMut};
use crate::cpu::memory::unfilled;
use crate::cpu::parallel;
use crate::dtype::Stored;
use crate::error::Result;
use crate::quant::{Block, Side};
use crate::saved::Saved;
use crate::tensor::Tensor;

/// What the backward keeps of a low-rank addition; its roundings are made again.
pub(super) struct KeptOfLora<T: Stored> {
    pub(super) a: Tensor,
    pub(super) b: Tensor,
    pub(super) scale: f64,
    /// scale·x·Aᵀ, `[rows, rank]`
    pub(super) xa: Roundings<T>,
}

/// A backward, and what it keeps.
pub(super) struct Backward<T: Stored> {
    pub(super) weight: Tensor,
    /// Where gradients of weights are needed.
    pub(super) xs: Option<Vec<Saved>>,
    pub(super) lora: Option<KeptOfLora<T>>,
    pub(super) layout: Layout,
    /// Of each x, the weight, A and B.
    pub(super) needs: Vec<bool>,
}

impl<T: Multiply> Backward<T> {
    /// Gradients of the parts in; of each x, the weight, A and B out.
    pub(super) fn run(self, gradients: Vec<Option<Tensor>>) -> Result<Vec<Option<Tensor>>> {
        let Self { layout, needs, .. } = &self;
        let gradients =
            gradients.into_iter().map(|g| g.map(|g| g.to_dtype(T::KIND)).transpose()).collect::<Result<Vec<_>>>()?;
        let gs = gradients
            .iter()
            .zip(&layout.parts)
            .map(|(g, part)| g.as_ref().map(|g| matrix::<T>(g, part.outputs.len())).transpose());
        let gs = gs.collect::<Result<Vec<_>>>()?;
        let runs = layout.runs(|part| gs[part].is_some());
        // scale·g·B, which both the gradient of A and that of x need.
        let adapter = self.lora.as_ref().map(|of| Adapter::<T>::of(&of.a, &of.b, of.scale)).transpose()?;
        let gb = adapter.as_ref().map(|adapter| self.times_b(adapter, &gs, &runs));
        let low_rank = adapter.as_ref().zip(gb.as_ref());
        let count = layout.columns.len();
        let mut out = self.input_gradients(&gs, low_rank, &runs)?;
        let xs = self.xs.iter().flatten().map(Saved::get).collect::<Result<Vec<_>>>()?;
        let xs = matrices::<T>(&xs.iter().collect::<Vec<_>>(), layout)?;
        out.push(needs[count].then(|| self.weight_gradient(&gs, &xs)));
        if let (Some((adapter, gb)), Some(KeptOfLora { xa, .. })) = (low_rank, &self.lora) {
            out.push(needs[count + 1].then(|| self.a_gradient(adapter, gb, &xs)));
            out.push(needs[count + 2].then(|| self.b_gradient(adapter, xa, &gs)));
        }
        Ok(out)
    }

    fn times_b(&self, adapter: &Adapter<T>, gs: &[Option<Mat<T>>], runs: &[Run]) -> Roundings<T> {
        let cols = adapter.once();
        let mut products = unfilled(self.layout.rows() * cols);
        let mut out = MatMut::new(&mut products, cols);
        for Run { rows, parts } in runs {
            let terms: Vec<_> = self
                .of_run(gs, rows, parts)
                .map(|(part, g)| term(g, adapter.b_once(&self.layout.parts[part].outputs)))
                .collect();
            multiply(out.slice_rows(rows.start, rows.len()), adapter.scale, &terms);
        }
        adapter.narrow(products)
    }

    /// The gradients of parts, those of their rows that belong to a run.
    fn of_run<'a>(
        &self,
        gs: &'a [Option<Mat<'a, T>>],
        rows: &'a Range<usize>,
        parts: &'a [(usize, usize)],
    ) -> impl Iterator<Item = (usize, Mat<'a, T>)> {
        parts.iter().filter_map(|&(part, first)| Some((part, gs[part]?.slice_rows(first, rows.len()))))
    }

    /// Σ g·W over the parts, and the low-rank term: of each x that needs it.
    fn input_gradients(
        &self,
        gs: &[Option<Mat<T>>],
        low_rank: Option<(&Adapter<T>, &Roundings<T>)>,
        runs: &[Run],
    ) -> Result<Vec<Option<Tensor>>> {
        let Layout { columns, parts: all, .. } = &self.layout;
        if !self.needs[..columns.len()].contains(&true) {
            return Ok(vec![None; columns.len()]);
        }
        let base = Base::of::<T>(&self.weight)?;
        let gradient =
            |(inputs, &need): (&Range<usize>, &bool)| need.then(|| unfilled::<T>(self.layout.rows() * inputs.len()));
        let mut out: Vec<_> = columns.iter().zip(&self.needs).map(gradient).collect();
        for Run { rows, parts } in runs {
            let (parts, gs): (Vec<_>, Vec<_>) = self.of_run(gs, rows, parts).unzip();
            let blocks = |inputs: &Range<usize>| -> Vec<Block> {
                parts.iter().map(|&part| Block { outputs: all[part].outputs.clone(), inputs: inputs.clone() }).collect()
            };
            let g = base.facing(gs, &blocks(&(0..self.layout.inputs())), Side::InputGradient)?;
            for (inputs, dx) in columns.iter().zip(&mut out) {
                let Some(dx) = dx else { continue };
                let low_rank = low_rank.map(|(adapter, gb)| term(slice(gb.all(), rows), adapter.a_all(inputs)));
                let mut dx = MatMut::new(dx, inputs.len());
                base.combine(dx.slice_rows(rows.start, rows.len()), &g, &(0..rows.len()), &blocks(inputs), low_rank)?;
            }
        }
        let tensor = |(x, dx): (usize, Option<_>)| Some(Tensor::new(dx?, &self.layout.input_shape(x)));
        Ok(out.into_iter().enumerate().map(tensor).collect())
    }

    /// The rows of a part's gradient, with those that they came from.
    fn rows_of<'a>(&self, part: usize, g: Mat<'a, T>) -> Vec<(Range<usize>, Mat<'a, T>)> {
        let runs = self.layout.runs(|other| other == part).into_iter();
        runs.filter_map(|Run { rows, parts }| {
            let &(_, first) = parts.first()?;
            Some((rows.clone(), g.slice_rows(first, rows.len())))
        })
        .collect()
    }

    /// gᵀ·x, `[out, in]`.
    fn weight_gradient(&self, gs: &[Option<Mat<T>>], xs: &[Mat<T>]) -> Tensor {
        let Layout { columns, parts, .. } = &self.layout;
        let (inputs, outputs) = (self.layout.inputs(), self.layout.outputs());
        let asked = parts.iter().zip(gs).filter(|(_, g)| g.is_some()).map(|(part, _)| part.outputs.len());
        let mut dw = match asked.sum::<usize>() == outputs {
            true => unfilled::<T::Compute>(outputs * inputs),
            false => vec![num_traits::Zero::zero(); outputs * inputs],
        };
        for (part, g) in gs.iter().enumerate().filter_map(|(part, g)| Some((part, (*g)?))) {
            let (outputs, rows) = (&parts[part].outputs, self.rows_of(part, g));
            for (x, columns) in xs.iter().zip(columns) {
                let terms: Vec<_> = rows.iter().map(|(rows, g)| term(g.t(), slice(*x, rows))).collect();
                let block = &mut dw[outputs.start * inputs + columns.start..];
                multiply(MatMut::strided(block, outputs.len(), columns.len(), inputs), one::<T>(), &terms);
            }
        }
        Tensor::new(dw, &[outputs, inputs])
    }

    /// (scale·g·B)ᵀ·x, `[rank, in]`. Roundings do here: they meet what is rounded itself, and all tokens are summed.
    fn a_gradient(&self, adapter: &Adapter<T>, gb: &Roundings<T>, xs: &[Mat<T>]) -> Tensor {
        let (rank, inputs) = (adapter.rank, self.layout.inputs());
        let mut da = unfilled::<T::Compute>(rank * inputs);
        for (x, columns) in xs.iter().zip(&self.layout.columns) {
            let block = MatMut::strided(&mut da[columns.start..], rank, columns.len(), inputs);
            multiply(block, one::<T>(), &[term(gb.rounded().t(), *x)]);
        }
        Tensor::new(da, &[rank, inputs])
    }

    /// gᵀ·(scale·x·Aᵀ), `[out, rank]`, by way of its transpose: the small matrix is the one to turn round.
    fn b_gradient(&self, adapter: &Adapter<T>, xa: &Roundings<T>, gs: &[Option<Mat<T>>]) -> Tensor {
        let (rank, outputs) = (adapter.rank, self.layout.outputs());
        let mut db = vec![num_traits::Zero::zero(); outputs * rank];
        for (part, g) in gs.iter().enumerate().filter_map(|(part, g)| Some((part, (*g)?))) {
            let outputs = &self.layout.parts[part].outputs;
            let rows = self.rows_of(part, g);
            let terms: Vec<_> = rows.iter().map(|(rows, g)| term(slice(xa.rounded(), rows).t(), *g)).collect();
            let transposed = sum(&terms, one::<T>());
            parallel::rows(
                &mut db[outputs.start * rank..outputs.end * rank],
                rank,
                #[inline(always)]
                |j, out| out.iter_mut().enumerate().for_each(|(i, out)| *out = transposed[i * outputs.len() + j]),
            );
        }
        Tensor::new(db, &[outputs, rank])
    }
}
