//! The forward of `flowtune_models::transformer::Flux2Transformer` over ghosts, statement by statement: what lives how
//! long is where the scopes are.

use std::collections::HashMap;
use std::rc::Rc;

use flowtune_engine::{DType, NF4_BLOCK};
use flowtune_models::transformer::{Flux2Config, WeightShape};

use super::ledger::{Component, Ghost, Ledger};
use super::ops::{Adapter, Kind, Layer, Machine, Part};
use super::step::Denoising;
use super::tape::{Tape, Var};

/// A transformer without weights, in memory as it will be.
pub(crate) struct Transformer {
    config: Flux2Config,
    layers: HashMap<String, Rc<Layer>>,
    machine: Machine,
    /// Weights of norms, scales of integers.
    _others: Vec<Ghost>,
}

/// Image and text tokens of a sample.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Sequence {
    pub(crate) image: usize,
    pub(crate) text: usize,
}

impl Transformer {
    /// Takes room for the weights, and for an adapter on each layer that has a rank.
    pub(crate) fn load(ledger: &Ledger, model: &Denoising) -> Self {
        let Denoising { config, weights, stored, precision, ranks, threads } = *model;
        let (mut layers, mut others) = (HashMap::new(), Vec::new());
        for (id, WeightShape { name, shape }) in weights.iter().enumerate() {
            let (dtype, elements) = (precision.weight(name, shape), shape.iter().product());
            // What the file has it in goes once it is converted.
            let read = stored.get(id).copied().flatten().filter(|stored| *stored != dtype);
            let _read = read.map(|stored| ledger.tensor(Component::Work, elements, stored.size()));
            let weight = ledger.tensor(Component::Transformer, dtype.bytes(elements), 1);
            let &[outputs, inputs] = &shape[..] else {
                others.push(weight);
                continue;
            };
            let (kind, beside) = match dtype {
                _ if precision.trainable => (Kind::Trained, 0),
                // Scales and sums of the rows, sums of the columns.
                DType::I8 => (Kind::Int8, 8 * outputs + 4 * inputs),
                DType::Nf4 => (Kind::Nf4, 4 * (outputs * inputs).div_ceil(NF4_BLOCK)),
                _ => (Kind::Frozen, 0),
            };
            others.extend((beside > 0).then(|| ledger.buffer(Component::Transformer, beside)));
            let name = name.strip_suffix(".weight").unwrap_or(name);
            layers.insert(name.to_owned(), Layer { id, outputs, inputs, weight, kind, lora: None });
        }
        for (name, &rank) in ranks {
            if let Some(layer) = layers.get_mut(name) {
                let part = |width: usize| ledger.tensor(Component::Lora, rank * width, 4);
                layer.lora = Some(Adapter { rank, a: part(layer.inputs), b: part(layer.outputs) });
            }
        }
        let layers = layers.into_iter().map(|(name, layer)| (name, Rc::new(layer))).collect();
        let machine = Machine { size: precision.compute().size(), threads };
        Self { config: config.clone(), layers, machine, _others: others }
    }

    fn layer(&self, name: &str) -> Rc<Layer> {
        Rc::clone(&self.layers[name])
    }

    /// latents `[batch, tokens, 128]` and text `[batch, tokens, dim]`, both float32 → prediction, float32.
    pub(crate) fn forward(&self, tape: &Tape, latents: &Ghost, text: &Ghost, batch: usize, s: Sequence) -> Var {
        let (m, dim) = (self.machine, self.config.dim());
        let linear = |x: &Var, name: &str, rows: usize| tape.linear(m, x, &self.layer(name), rows, 4);
        let cast = |ghost: &Ghost| tape.cast(&Var::constant(ghost.clone()), m.size);
        let activated = self.time(tape, batch);
        let modulation = |name: &str| linear(&activated, &format!("{name}.linear"), batch);
        let image = linear(&cast(latents), "x_embedder", batch * s.image);
        let text = linear(&cast(text), "context_embedder", batch * s.text);
        let tokens = s.image + s.text;
        let table = tape.rope_table(tokens, self.config.attention_head_dim);
        let mut state = vec![image, text];
        let streams = [modulation("double_stream_modulation_img"), modulation("double_stream_modulation_txt")];
        for i in 0..self.config.num_layers {
            let block = DoubleBlock::of(self, i, batch, s);
            state.extend(streams.iter().cloned());
            state = tape.checkpoint(&state, move |tape, v| block.forward(tape, v));
        }
        state = vec![tape.cat(&[&state[1], &state[0]])];
        let single = modulation("single_stream_modulation");
        for i in 0..self.config.num_single_layers {
            let asked = if i + 1 == self.config.num_single_layers { s.image } else { tokens };
            let block = SingleBlock::of(self, i, batch, tokens, asked, table.clone());
            state.push(single.clone());
            state = tape.checkpoint(&state, move |tape, v| block.forward(tape, v));
        }
        let image = tape.narrow(&state[0], batch * s.image * dim);
        let normed = tape.layer_norm_modulate(&image, &modulation("norm_out"), m);
        linear(&normed, "proj_out", batch * s.image)
    }

    /// silu of the embedding of time and guidance.
    fn time(&self, tape: &Tape, batch: usize) -> Var {
        let m = self.machine;
        let embedded = |name: &str| {
            let mlp = |i: usize| self.layers.get(&format!("time_guidance_embed.{name}_embedder.linear_{i}"));
            let (first, second) = (mlp(1)?, mlp(2)?);
            let sinusoid = tape.ledger().tensor(Component::Work, batch * first.inputs, m.size);
            let hidden = tape.linear(m, &Var::constant(sinusoid), first, batch, m.size);
            Some(tape.linear(m, &hidden, second, batch, m.size))
        };
        let parts: Vec<Var> = ["timestep", "guidance"].into_iter().filter_map(embedded).collect();
        tape.sum(&parts.iter().collect::<Vec<_>>())
    }
}

/// The layers of one stream of a double block.
struct Stream {
    q: Rc<Layer>,
    k: Rc<Layer>,
    v: Rc<Layer>,
    out: Rc<Layer>,
    ff_in: Rc<Layer>,
    ff_out: Rc<Layer>,
    rows: usize,
    m: Machine,
}

impl Stream {
    fn of(t: &Transformer, block: usize, [q, k, v, out, ff]: [&str; 5], rows: usize) -> Self {
        let layer = |name: &str| t.layer(&format!("transformer_blocks.{block}.{name}"));
        let (ff_in, ff_out) = (layer(&format!("{ff}.linear_in")), layer(&format!("{ff}.linear_out")));
        Self { q: layer(q), k: layer(k), v: layer(v), out: layer(out), ff_in, ff_out, rows, m: t.machine }
    }

    fn linear(&self, tape: &Tape, x: &Var, layer: &Layer) -> Var {
        tape.linear(self.m, x, layer, self.rows, self.m.size)
    }

    fn qkv(&self, tape: &Tape, x: &Var, table: &Ghost) -> [Var; 3] {
        let [q, k, v] = [&self.q, &self.k, &self.v].map(|layer| self.linear(tape, x, layer));
        let q = tape.rms_norm_rope(&q, table);
        let k = tape.rms_norm_rope(&k, table);
        [q, k, v]
    }

    fn finish(&self, tape: &Tape, x: &Var, attention: &Var, modulation: &Var) -> Var {
        let attention = self.linear(tape, attention, &self.out);
        let x = tape.gated_residual(x, modulation, &attention);
        let normed = tape.layer_norm_modulate(&x, modulation, self.m);
        let hidden = tape.swiglu(&self.linear(tape, &normed, &self.ff_in));
        let hidden = self.linear(tape, &hidden, &self.ff_out);
        tape.gated_residual(&x, modulation, &hidden)
    }
}

struct DoubleBlock {
    image: Stream,
    text: Stream,
    heads: usize,
    width: usize,
    batch: usize,
    sequence: Sequence,
}

impl DoubleBlock {
    fn of(t: &Transformer, block: usize, batch: usize, sequence: Sequence) -> Self {
        let image = ["attn.to_q", "attn.to_k", "attn.to_v", "attn.to_out.0", "ff"];
        let text = ["attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj", "attn.to_add_out", "ff_context"];
        Self {
            image: Stream::of(t, block, image, batch * sequence.image),
            text: Stream::of(t, block, text, batch * sequence.text),
            heads: t.config.num_attention_heads,
            width: t.config.attention_head_dim,
            batch,
            sequence,
        }
    }

    fn forward(&self, tape: &Tape, inputs: &[Var]) -> Vec<Var> {
        let ([image, text, of_image, of_text], m) = ([0, 1, 2, 3].map(|i| &inputs[i]), self.image.m);
        let normed_image = tape.layer_norm_modulate(image, of_image, m);
        let normed_text = tape.layer_norm_modulate(text, of_text, m);
        let of_text_tokens = tape.rope_table(self.sequence.text, self.width);
        let of_image_tokens = tape.rope_table(self.sequence.image, self.width);
        let [qi, ki, vi] = self.image.qkv(tape, &normed_image, &of_image_tokens);
        let [qt, kt, vt] = self.text.qkv(tape, &normed_text, &of_text_tokens);
        let q = tape.cat(&[&qt, &qi]);
        let k = tape.cat(&[&kt, &ki]);
        let v = tape.cat(&[&vt, &vi]);
        let attention = tape.attention(m, [&q, &k, &v], self.batch, self.heads, self.width);
        let parts = tape.split(&attention, &[text.ghost.elements(), image.ghost.elements()]);
        let text = self.text.finish(tape, text, &parts[0], of_text);
        let image = self.image.finish(tape, image, &parts[1], of_image);
        vec![image, text]
    }
}

struct SingleBlock {
    qkv_mlp: Rc<Layer>,
    out: Rc<Layer>,
    heads: usize,
    width: usize,
    mlp: usize,
    batch: usize,
    tokens: usize,
    asked: usize,
    table: Ghost,
    m: Machine,
}

impl SingleBlock {
    /// That makes `asked` of its tokens.
    fn of(t: &Transformer, block: usize, batch: usize, tokens: usize, asked: usize, table: Ghost) -> Self {
        let attn = format!("single_transformer_blocks.{block}.attn");
        Self {
            qkv_mlp: t.layer(&format!("{attn}.to_qkv_mlp_proj")),
            out: t.layer(&format!("{attn}.to_out")),
            heads: t.config.num_attention_heads,
            width: t.config.attention_head_dim,
            mlp: t.config.mlp_dim(),
            batch,
            tokens,
            asked,
            table,
            m: t.machine,
        }
    }

    fn forward(&self, tape: &Tape, inputs: &[Var]) -> Vec<Var> {
        let (x, modulation) = (&inputs[0], &inputs[1]);
        let [rows, asked] = [self.tokens, self.asked].map(|tokens| self.batch * tokens);
        let normed = tape.layer_norm_modulate(x, modulation, self.m);
        let dim = self.heads * self.width;
        let part = |outputs: usize, rows: usize| Part { outputs, rows };
        let parts = [part(dim, asked), part(dim, rows), part(dim, rows), part(2 * self.mlp, asked)];
        let parts = tape.linear_parts(self.m, &[&normed], &self.qkv_mlp, rows, &parts);
        let of_asked = match asked == rows {
            true => self.table.clone(),
            false => tape.rope_table(self.asked, self.width),
        };
        let q = tape.rms_norm_rope(&parts[0], &of_asked);
        let k = tape.rms_norm_rope(&parts[1], &self.table);
        let attention = tape.attention(self.m, [&q, &k, &parts[2]], self.batch, self.heads, self.width);
        let hidden = tape.swiglu(&parts[3]);
        let out = tape.linear_parts(self.m, &[&attention, &hidden], &self.out, asked, &[part(dim, asked)]).remove(0);
        vec![tape.gated_residual(&tape.narrow(x, asked * dim), modulation, &out)]
    }
}
