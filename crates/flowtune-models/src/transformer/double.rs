//! The double-stream block: image and text with weights of their own, attending jointly.
//! Source: diffusers `Flux2TransformerBlock`, `Flux2AttnProcessor`.

use flowtune_engine::ops::rope::RopeTable;
use flowtune_engine::{DType, Param, Tape, Var};

use super::builder::Builder;
use super::config::Flux2Config;
use super::modulation::Modulation;
use crate::error::Result;
use crate::linear::Linear;

/// One stream's share of the block.
#[derive(Debug)]
struct Stream {
    q: Linear,
    k: Linear,
    v: Linear,
    norm_q: Param,
    norm_k: Param,
    out: Linear,
    ff_in: Linear,
    ff_out: Linear,
}

/// Names of a stream's layers inside the block.
struct Names {
    q: &'static str,
    k: &'static str,
    v: &'static str,
    norm_q: &'static str,
    norm_k: &'static str,
    out: &'static str,
    ff: &'static str,
}

const IMAGE: Names = Names {
    q: "attn.to_q",
    k: "attn.to_k",
    v: "attn.to_v",
    norm_q: "attn.norm_q",
    norm_k: "attn.norm_k",
    out: "attn.to_out.0",
    ff: "ff",
};
const TEXT: Names = Names {
    q: "attn.add_q_proj",
    k: "attn.add_k_proj",
    v: "attn.add_v_proj",
    norm_q: "attn.norm_added_q",
    norm_k: "attn.norm_added_k",
    out: "attn.to_add_out",
    ff: "ff_context",
};

impl Stream {
    fn build(b: &mut Builder, block: &str, n: &Names, c: &Flux2Config) -> Result<Self> {
        let (dim, mlp) = (c.dim(), c.mlp_dim());
        Ok(Self {
            q: b.linear(&format!("{block}.{}", n.q), dim, dim)?,
            k: b.linear(&format!("{block}.{}", n.k), dim, dim)?,
            v: b.linear(&format!("{block}.{}", n.v), dim, dim)?,
            norm_q: b.param(&format!("{block}.{}.weight", n.norm_q), &[c.attention_head_dim])?,
            norm_k: b.param(&format!("{block}.{}.weight", n.norm_k), &[c.attention_head_dim])?,
            out: b.linear(&format!("{block}.{}", n.out), dim, dim)?,
            ff_in: b.linear(&format!("{block}.{}.linear_in", n.ff), 2 * mlp, dim)?,
            ff_out: b.linear(&format!("{block}.{}.linear_out", n.ff), dim, mlp)?,
        })
    }

    /// q, k (normalised and rotated) and v of x, `[batch, tokens, heads, head_dim]`.
    fn qkv(&self, tape: &Tape, x: &Var, heads: usize, eps: f64, rope: &RopeTable) -> flowtune_engine::Result<[Var; 3]> {
        let q = split_heads(tape, &self.q.forward(tape, x)?, heads)?;
        let k = split_heads(tape, &self.k.forward(tape, x)?, heads)?;
        let v = split_heads(tape, &self.v.forward(tape, x)?, heads)?;
        let q = tape.rms_norm_rope(&q, &tape.param(&self.norm_q), eps, rope)?;
        let k = tape.rms_norm_rope(&k, &tape.param(&self.norm_k), eps, rope)?;
        Ok([q, k, v])
    }

    /// Attention output and feed-forward added to the residual stream.
    fn finish(
        &self,
        tape: &Tape,
        x: &Var,
        attention: &Var,
        m: [Modulation; 2],
        eps: f64,
    ) -> flowtune_engine::Result<Var> {
        let [msa, mlp] = m;
        let attention = self.out.forward(tape, attention)?;
        let x = tape.gated_residual(x, msa.gate, &attention)?;
        let normed = tape.layer_norm_modulate(&x, mlp.scale, mlp.shift, eps, attention.tensor().dtype())?;
        let hidden = tape.swiglu(&self.ff_in.forward(tape, &normed)?)?;
        let hidden = self.ff_out.forward(tape, &hidden)?;
        tape.gated_residual(&x, mlp.gate, &hidden)
    }

    fn linears(&self) -> [&Linear; 6] {
        [&self.q, &self.k, &self.v, &self.out, &self.ff_in, &self.ff_out]
    }
}

/// `[batch, tokens, heads·head_dim]` → `[batch, tokens, heads, head_dim]`.
pub(super) fn split_heads(tape: &Tape, x: &Var, heads: usize) -> flowtune_engine::Result<Var> {
    let (batch, tokens, dim) = (x.tensor().dim(0), x.tensor().dim(1), x.tensor().dim(2));
    tape.reshape(x, &[batch, tokens, heads, dim / heads])
}

#[derive(Debug)]
pub(super) struct DoubleBlock {
    image: Stream,
    text: Stream,
    heads: usize,
    eps: f64,
}

impl DoubleBlock {
    pub(super) fn build(b: &mut Builder, index: usize, c: &Flux2Config) -> Result<Self> {
        let block = format!("transformer_blocks.{index}");
        Ok(Self {
            image: Stream::build(b, &block, &IMAGE, c)?,
            text: Stream::build(b, &block, &TEXT, c)?,
            heads: c.num_attention_heads,
            eps: c.eps,
        })
    }

    /// Inputs: image `[batch, tokens, dim]`, text `[batch, text tokens, dim]`, then shift, scale, gate of
    /// attention and of the feed-forward for the image (6) and for the text (6). Outputs: image, text.
    pub(super) fn forward(
        &self,
        tape: &Tape,
        inputs: &[Var],
        rope: &RopeTable,
        compute: DType,
    ) -> flowtune_engine::Result<Vec<Var>> {
        let (image, text) = (&inputs[0], &inputs[1]);
        let [image_msa, image_mlp, text_msa, text_mlp] = [2, 5, 8, 11].map(|at| Modulation::of(&inputs[at..at + 3]));
        let normed_image = tape.layer_norm_modulate(image, image_msa.scale, image_msa.shift, self.eps, compute)?;
        let normed_text = tape.layer_norm_modulate(text, text_msa.scale, text_msa.shift, self.eps, compute)?;
        let text_tokens = text.tensor().dim(1);
        let text_rope = rope.narrow(0, text_tokens)?;
        let image_rope = rope.narrow(text_tokens, image.tensor().dim(1))?;
        let [qi, ki, vi] = self.image.qkv(tape, &normed_image, self.heads, self.eps, &image_rope)?;
        let [qt, kt, vt] = self.text.qkv(tape, &normed_text, self.heads, self.eps, &text_rope)?;
        let q = tape.cat_tokens(&[&qt, &qi])?;
        let k = tape.cat_tokens(&[&kt, &ki])?;
        let v = tape.cat_tokens(&[&vt, &vi])?;
        let attention = tape.attention(&q, &k, &v)?;
        let counts = [text_tokens, image.tensor().dim(1)];
        let parts = tape.split_tokens(&attention, &counts)?;
        let text = self.text.finish(tape, text, &parts[0], [text_msa, text_mlp], self.eps)?;
        let image = self.image.finish(tape, image, &parts[1], [image_msa, image_mlp], self.eps)?;
        Ok(vec![image, text])
    }

    pub(super) fn linears<'a>(&'a self, out: &mut Vec<&'a Linear>) {
        out.extend(self.image.linears());
        out.extend(self.text.linears());
    }
}
