//! One decoder for both text encoders of FLUX.2: transformers `modeling_qwen3.py` and `modeling_mistral.py`.

use flowtune_engine::ops::causal_attention::{causal_attention, rope_half_split, rope_table};
use flowtune_engine::ops::embedding::embedding;
use flowtune_engine::ops::linear::linear_bias;
use flowtune_engine::ops::norm::rms_norm;
use flowtune_engine::ops::rope::RopeTable;
use flowtune_engine::{DType, Device, Tape, Tensor, Var};

use super::config::{TextConfig, TextFamily};
use crate::error::{Error, Result};
use crate::weights::Weights;

/// Where checkpoints keep the decoder: causal language models, Mistral3 before and since transformers 5, and
/// bare models.
const PREFIXES: [&str; 4] = ["model.", "language_model.model.", "model.language_model.", ""];

/// Token ids to the stacked hidden states that FLUX.2 is conditioned on, without gradients. It computes in float32;
/// matrices that the checkpoint has in bfloat16 stay so in memory, which changes no result. It computes where its weights are;
/// ids come from the host and embeddings go there.
pub struct TextEncoder {
    config: TextConfig,
    /// Hidden states to stack, in order.
    taps: Vec<usize>,
    embed_tokens: Tensor,
    layers: Vec<Layer>,
}

impl TextEncoder {
    /// Loads the layers that hidden states `taps` depend on: index 0 is the token embedding, i the output of
    /// layer i before the final norm. Later layers are neither read nor run.
    ///
    /// # Errors
    /// `WEIGHTS_MISSING`, `SHAPE_MISMATCH`; `DATA_UNREADABLE` when the model has no such hidden state.
    pub fn load(config: TextConfig, weights: &Weights, taps: &[usize]) -> Result<Self> {
        let last = taps.iter().copied().max().unwrap_or(0);
        // transformers' last hidden state is the one after the final norm, which FLUX.2 never takes.
        if last >= config.num_hidden_layers {
            return Err(Error::DataUnreadable {
                what: format!("text_encoder of {} layers", config.num_hidden_layers),
                problem: format!("hidden states {taps:?} are wanted; use a text encoder with more layers"),
            });
        }
        let is_here = |prefix: &&&str| weights.contains(&format!("{prefix}embed_tokens.weight"));
        let prefix = PREFIXES.iter().find(is_here).unwrap_or(&PREFIXES[0]);
        let table = [config.vocab_size, config.hidden_size];
        let embed_tokens = matrix(weights, &format!("{prefix}embed_tokens.weight"), table)?;
        let layer = |i: usize| Layer::load(&weights.scoped(&format!("{prefix}layers.{i}")), &config);
        let layers = (0..last).map(layer).collect::<Result<_>>()?;
        Ok(Self { config, taps: taps.to_vec(), embed_tokens, layers })
    }

    /// The configuration.
    pub fn config(&self) -> &TextConfig {
        &self.config
    }

    /// Where it computes.
    pub fn device(&self) -> Device {
        self.embed_tokens.device()
    }

    /// Channels of the result: number of stacked hidden states · hidden_size.
    pub fn embedding_dim(&self) -> usize {
        self.taps.len() * self.config.hidden_size
    }

    /// `input_ids` and `attention_mask` int64 `[batch, tokens]` → `[batch, tokens, stacked·hidden_size]`. Padding
    /// has embeddings too: FLUX.2 attends to it. Positions count from the first token, padding included.
    ///
    /// # Errors
    /// `SHAPE_MISMATCH` when the shapes differ, an id is not in the vocabulary, or there are more tokens than a
    /// sliding window spans.
    pub fn text_embeddings(&self, input_ids: &Tensor, attention_mask: &Tensor) -> Result<Tensor> {
        let &[batch, tokens] = input_ids.shape() else {
            return Err(shape_error("input_ids", "[batch, tokens]".to_owned(), input_ids));
        };
        if self.config.sliding_window.is_some_and(|window| tokens > window) {
            let expected = format!("with at most {:?} tokens", self.config.sliding_window);
            return Err(shape_error("input_ids", expected, input_ids));
        }
        let rope = rope_table(tokens, self.config.head_dim, self.config.rope_theta).to_device(&self.device())?;
        let mut x = embedding(input_ids, &self.embed_tokens)?.to_dtype(DType::F32)?;
        let mut taken = vec![None; self.taps.len()];
        self.take(0, &x, &mut taken);
        for (i, layer) in self.layers.iter().enumerate() {
            x = layer.forward(x, &rope, attention_mask, &self.config)?;
            self.take(i + 1, &x, &mut taken);
        }
        let states: Vec<Var> = taken.into_iter().flatten().map(Var::constant).collect();
        let stacked = Tape::inference().cat_last(&states.iter().collect::<Vec<_>>())?;
        let here = stacked.into_tensor().to_device(&input_ids.device())?;
        Ok(here.reshape(&[batch, tokens, self.embedding_dim()])?)
    }

    fn take(&self, index: usize, state: &Tensor, taken: &mut [Option<Tensor>]) {
        for (tap, slot) in self.taps.iter().zip(taken) {
            if *tap == index {
                *slot = Some(state.clone());
            }
        }
    }
}

fn shape_error(argument: &'static str, expected: String, got: &Tensor) -> Error {
    flowtune_engine::Error::Shape { op: "text_embeddings", argument, expected, got: got.shape().to_vec() }.into()
}

struct Layer {
    input_norm: Tensor,
    q_proj: Tensor,
    k_proj: Tensor,
    v_proj: Tensor,
    o_proj: Tensor,
    /// Qwen3's norms of queries and keys.
    head_norms: Option<[Tensor; 2]>,
    post_attention_norm: Tensor,
    /// Gate above up, so that one product makes the input of SwiGLU.
    gate_up_proj: Tensor,
    down_proj: Tensor,
}

impl Layer {
    fn load(weights: &Weights, c: &TextConfig) -> Result<Self> {
        let (hidden, inner) = (c.hidden_size, c.intermediate_size);
        let (queries, keys) = (c.num_attention_heads * c.head_dim, c.num_key_value_heads * c.head_dim);
        let attention = weights.scoped("self_attn");
        let mlp = weights.scoped("mlp");
        let gate_up =
            [matrix(&mlp, "gate_proj.weight", [inner, hidden])?, matrix(&mlp, "up_proj.weight", [inner, hidden])?];
        let head_norm = |name: &str| attention.get(name, &[c.head_dim]);
        Ok(Self {
            input_norm: weights.get("input_layernorm.weight", &[hidden])?,
            q_proj: matrix(&attention, "q_proj.weight", [queries, hidden])?,
            k_proj: matrix(&attention, "k_proj.weight", [keys, hidden])?,
            v_proj: matrix(&attention, "v_proj.weight", [keys, hidden])?,
            o_proj: matrix(&attention, "o_proj.weight", [hidden, queries])?,
            head_norms: match c.family {
                TextFamily::Qwen3 => Some([head_norm("q_norm.weight")?, head_norm("k_norm.weight")?]),
                TextFamily::Mistral => None,
            },
            post_attention_norm: weights.get("post_attention_layernorm.weight", &[hidden])?,
            gate_up_proj: Tensor::cat_rows(&gate_up)?,
            down_proj: matrix(&mlp, "down_proj.weight", [hidden, inner])?,
        })
    }

    fn forward(&self, x: Tensor, rope: &RopeTable, mask: &Tensor, c: &TextConfig) -> Result<Tensor> {
        let h = rms_norm(&x, &self.input_norm, c.rms_norm_eps)?;
        let x = add(x, self.attention(&h, rope, mask, c)?)?;
        let h = rms_norm(&x, &self.post_attention_norm, c.rms_norm_eps)?;
        let feed = self.feed_forward(&h)?;
        add(x, feed)
    }

    fn attention(&self, h: &Tensor, rope: &RopeTable, mask: &Tensor, c: &TextConfig) -> Result<Tensor> {
        let heads = |weight: &Tensor, heads: usize| -> Result<Tensor> {
            Ok(linear_bias(h, weight, None)?.reshape(&[h.dim(0), h.dim(1), heads, c.head_dim])?)
        };
        let (mut q, mut k) = (heads(&self.q_proj, c.num_attention_heads)?, heads(&self.k_proj, c.num_key_value_heads)?);
        if let Some([q_norm, k_norm]) = &self.head_norms {
            (q, k) = (rms_norm(&q, q_norm, c.rms_norm_eps)?, rms_norm(&k, k_norm, c.rms_norm_eps)?);
        }
        let (q, k) = (rope_half_split(&q, rope)?, rope_half_split(&k, rope)?);
        let attended = causal_attention(&q, &k, &heads(&self.v_proj, c.num_key_value_heads)?, Some(mask))?;
        Ok(linear_bias(&attended, &self.o_proj, None)?)
    }

    fn feed_forward(&self, h: &Tensor) -> Result<Tensor> {
        let gate_up = Var::constant(linear_bias(h, &self.gate_up_proj, None)?);
        let gated = Tape::inference().swiglu(&gate_up)?;
        Ok(linear_bias(gated.tensor(), &self.down_proj, None)?)
    }
}

/// A matrix in the type that it has in the checkpoint, as far as that is one to compute with.
fn matrix(weights: &Weights, name: &str, shape: [usize; 2]) -> Result<Tensor> {
    weights.get_as(name, &shape, weights.stored_dtype(name))
}

fn add(x: Tensor, y: Tensor) -> Result<Tensor> {
    Ok(Tape::inference().add(&Var::constant(x), &Var::constant(y))?.into_tensor())
}

#[cfg(test)]
mod layouts;
