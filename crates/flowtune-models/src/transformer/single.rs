//! The single-stream block: attention and feed-forward in parallel on the joined tokens.
//! Source: diffusers `Flux2SingleTransformerBlock`, `Flux2ParallelSelfAttnProcessor`.

use std::ops::Range;

use flowtune_engine::ops::linear::Part;
use flowtune_engine::ops::rope::RopeTable;
use flowtune_engine::{DType, Param, Tape, Var};

use super::builder::Builder;
use super::config::Flux2Config;
use super::double::split_heads;
use super::modulation::Modulation;
use crate::error::Result;
use crate::linear::Linear;

#[derive(Debug)]
pub(super) struct SingleBlock {
    qkv_mlp: Linear,
    norm_q: Param,
    norm_k: Param,
    out: Linear,
    heads: usize,
    mlp_dim: usize,
    eps: f64,
}

impl SingleBlock {
    pub(super) fn build(b: &mut Builder, index: usize, c: &Flux2Config) -> Result<Self> {
        let attn = format!("single_transformer_blocks.{index}.attn");
        let (dim, mlp_dim) = (c.dim(), c.mlp_dim());
        Ok(Self {
            qkv_mlp: b.linear(&format!("{attn}.to_qkv_mlp_proj"), 3 * dim + 2 * mlp_dim, dim)?,
            norm_q: b.param(&format!("{attn}.norm_q.weight"), &[c.attention_head_dim])?,
            norm_k: b.param(&format!("{attn}.norm_k.weight"), &[c.attention_head_dim])?,
            out: b.linear(&format!("{attn}.to_out"), dim, dim + mlp_dim)?,
            heads: c.num_attention_heads,
            mlp_dim,
            eps: c.eps,
        })
    }

    /// Inputs: tokens `[batch, tokens, dim]`, then shift, scale, gate. Output: those tokens that are `asked` for. The
    /// others are attended to, and that is all that is computed of them.
    pub(super) fn forward(
        &self,
        tape: &Tape,
        inputs: &[Var],
        rope: &RopeTable,
        asked: &Range<usize>,
        compute: DType,
    ) -> flowtune_engine::Result<Vec<Var>> {
        let (x, m) = (&inputs[0], Modulation::of(&inputs[1..]));
        let (tokens, dim) = (x.tensor().dim(1), x.tensor().last_dim());
        let normed = tape.layer_norm_modulate(x, m.scale, m.shift, self.eps, compute)?;
        let part = |start: usize, outputs: usize, tokens: &Range<usize>| Part {
            outputs: start..start + outputs,
            tokens: tokens.clone(),
        };
        let (all, mlp) = (0..tokens, 2 * self.mlp_dim);
        let parts = [part(0, dim, asked), part(dim, dim, &all), part(2 * dim, dim, &all), part(3 * dim, mlp, asked)];
        let parts = self.qkv_mlp.parts(tape, &[&normed], &parts)?;
        let q = split_heads(tape, &parts[0], self.heads)?;
        let k = split_heads(tape, &parts[1], self.heads)?;
        let v = split_heads(tape, &parts[2], self.heads)?;
        let q_rope = rope.narrow(asked.start, asked.len())?;
        let q = tape.rms_norm_rope(&q, &tape.param(&self.norm_q), self.eps, &q_rope)?;
        let k = tape.rms_norm_rope(&k, &tape.param(&self.norm_k), self.eps, rope)?;
        let attention = tape.attention(&q, &k, &v)?;
        let hidden = tape.swiglu(&parts[3])?;
        let out = part(0, dim, &(0..asked.len()));
        let out = self.out.parts(tape, &[&attention, &hidden], &[out])?.remove(0);
        let x = some_tokens(tape, x, asked)?;
        Ok(vec![tape.gated_residual(&x, m.gate, &out)?])
    }

    pub(super) fn linears<'a>(&'a self, out: &mut Vec<&'a Linear>) {
        out.extend([&self.qkv_mlp, &self.out]);
    }
}

/// Some tokens of x, `[batch, tokens, dim]`.
pub(super) fn some_tokens(tape: &Tape, x: &Var, tokens: &Range<usize>) -> flowtune_engine::Result<Var> {
    match tokens.len() == x.tensor().dim(1) {
        true => Ok(x.clone()),
        false => tape.narrow(x, 1, tokens.start, tokens.len()),
    }
}
