//! Which inputs a linear layer takes from where, and what it makes of them.

use std::collections::BTreeSet;
use std::ops::Range;

use super::{LowRank, OP};
use crate::error::{Result, shape_error};
use crate::tape::Var;
use crate::tensor::Tensor;

/// Some outputs of a layer, for some tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// Rows of the weight.
    pub outputs: Range<usize>,
    /// Of each sample.
    pub tokens: Range<usize>,
}

/// Inputs side by side, and the parts that are asked for.
#[derive(Debug, Clone)]
pub(super) struct Layout {
    batch: usize,
    tokens: usize,
    /// Extents before the last of what comes whole.
    lead: Vec<usize>,
    /// Of the weight, those that each x meets.
    pub(super) columns: Vec<Range<usize>>,
    pub(super) parts: Vec<Part>,
    inputs: usize,
    outputs: usize,
}

/// Adjacent rows of x that the same parts are made of.
pub(super) struct Run {
    pub(super) rows: Range<usize>,
    /// Parts, and which of their rows comes first.
    pub(super) parts: Vec<(usize, usize)>,
}

impl Layout {
    /// One input, all outputs: x `[.., in]`.
    pub(super) fn whole(x: &Tensor, weight: &Tensor, lora: Option<&LowRank>) -> Result<Self> {
        let (outputs, inputs) = extents(x.last_dim(), weight, lora)?;
        let rows = x.len() / inputs.max(1);
        let lead = x.shape()[..x.shape().len().saturating_sub(1)].to_vec();
        let all = Part { outputs: 0..outputs, tokens: 0..rows };
        Ok(Self {
            batch: 1,
            tokens: rows,
            lead,
            columns: std::iter::once(0..inputs).collect(),
            parts: vec![all],
            inputs,
            outputs,
        })
    }

    /// Inputs `[batch, tokens, inᵢ]`.
    pub(super) fn of_parts(xs: &[&Var], weight: &Tensor, lora: Option<&LowRank>, parts: &[Part]) -> Result<Self> {
        let shapes: Vec<&[usize]> = xs.iter().map(|x| x.tensor().shape()).collect();
        let Some(&[batch, tokens, _]) = shapes.first().copied() else {
            return Err(shape_error(OP, "x", "[batch, tokens, in]", shapes.first().copied().unwrap_or(&[])));
        };
        if let Some(other) = shapes.iter().find(|shape| shape.len() != 3 || shape[..2] != [batch, tokens]) {
            return Err(shape_error(OP, "x", format!("[{batch}, {tokens}, in]"), other));
        }
        let mut inputs = 0;
        let columns = shapes.iter().map(|shape| {
            inputs += shape[2];
            inputs - shape[2]..inputs
        });
        let columns = columns.collect();
        let (outputs, inputs) = extents(inputs, weight, lora)?;
        let mut end = 0;
        for part in parts {
            let [of, count] = [&part.outputs, &part.tokens].map(|range| range.start..range.end.max(range.start));
            if of.start < end || of.end > outputs || count.end > tokens {
                let expected = format!("outputs of {end}..{outputs}, tokens of 0..{tokens}");
                return Err(shape_error(OP, "parts", expected, &[of.start, of.end, count.start, count.end]));
            }
            end = of.end;
        }
        Ok(Self { batch, tokens, lead: vec![batch, tokens], columns, parts: parts.to_vec(), inputs, outputs })
    }

    /// Rows of x.
    pub(super) fn rows(&self) -> usize {
        self.batch * self.tokens
    }

    pub(super) fn inputs(&self) -> usize {
        self.inputs
    }

    pub(super) fn outputs(&self) -> usize {
        self.outputs
    }

    /// Rows of a part.
    pub(super) fn rows_of(&self, part: usize) -> usize {
        self.batch * self.parts[part].tokens.len()
    }

    pub(super) fn output_shape(&self, part: usize) -> Vec<usize> {
        let Part { outputs, tokens } = &self.parts[part];
        match tokens.len() == self.tokens {
            true => [&self.lead[..], &[outputs.len()]].concat(),
            false => vec![self.batch, tokens.len(), outputs.len()],
        }
    }

    pub(super) fn input_shape(&self, x: usize) -> Vec<usize> {
        [&self.lead[..], &[self.columns[x].len()]].concat()
    }

    /// All rows, by which of the parts that are `asked` for they make.
    pub(super) fn runs(&self, asked: impl Fn(usize) -> bool) -> Vec<Run> {
        let asked: Vec<usize> = (0..self.parts.len()).filter(|&part| asked(part)).collect();
        let ends = asked.iter().flat_map(|&part| [self.parts[part].tokens.start, self.parts[part].tokens.end]);
        let cuts: Vec<usize> = ends.chain([0, self.tokens]).collect::<BTreeSet<_>>().into_iter().collect();
        if cuts.len() == 2 {
            return vec![Run { rows: 0..self.rows(), parts: asked.into_iter().map(|part| (part, 0)).collect() }];
        }
        let of_sample = |sample: usize| {
            let asked = &asked;
            cuts.windows(2).map(move |cut| {
                let made = asked.iter().copied().filter(|&part| {
                    let Range { start, end } = self.parts[part].tokens;
                    start <= cut[0] && cut[1] <= end
                });
                let first = |part: usize| {
                    let Range { start, end } = self.parts[part].tokens;
                    (part, sample * (end - start) + cut[0] - start)
                };
                let rows = sample * self.tokens + cut[0]..sample * self.tokens + cut[1];
                Run { rows, parts: made.map(first).collect() }
            })
        };
        (0..self.batch).flat_map(of_sample).collect()
    }
}

/// Outputs and inputs of a weight that x has `inputs` for.
fn extents(inputs: usize, weight: &Tensor, lora: Option<&LowRank>) -> Result<(usize, usize)> {
    let &[outputs, columns] = weight.shape() else {
        return Err(shape_error(OP, "weight", "[out, in]", weight.shape()));
    };
    if columns != inputs {
        return Err(shape_error(OP, "weight", format!("[out, {inputs}]"), weight.shape()));
    }
    if let Some(LowRank { a, b, .. }) = lora {
        let (a, b) = (a.tensor().shape(), b.tensor().shape());
        if a.len() != 2 || a[1] != inputs {
            return Err(shape_error(OP, "lora_A", format!("[rank, {inputs}]"), a));
        }
        if b != [outputs, a[0]] {
            return Err(shape_error(OP, "lora_B", format!("[{outputs}, {}]", a[0]), b));
        }
    }
    Ok((outputs, inputs))
}
