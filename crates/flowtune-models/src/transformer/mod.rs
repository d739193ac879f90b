//! `Flux2Transformer2DModel`: noisy latents, text and time in, velocity out.
//! Source: diffusers `transformer_flux2.py`; parameter names are those of its checkpoints.

mod builder;
mod config;
mod double;
mod files;
mod geometry;
mod modulation;
mod offload;
mod positions;
mod references;
mod single;

use std::path::Path;
use std::sync::Arc;

use flowtune_engine::ops::elementwise::scale_tensor;
use flowtune_engine::{DType, Device, Param, Tape, Tensor, Var};

pub use config::Flux2Config;
pub use files::WeightShape;
pub use offload::Offload;
pub use references::ReferenceTokens;

use crate::error::{Result, layout_error};
use crate::linear::Linear;
use crate::precision::Precision;
use crate::weights::Weights;
use builder::{Builder, Source};
use double::DoubleBlock;
use modulation::{TimeGuidanceEmbed, modulate};
use single::{SingleBlock, some_tokens};

/// What the transformer takes.
#[derive(Debug, Clone)]
pub struct Flux2Inputs {
    /// Packed noisy latents, `[batch, tokens, 128]`.
    pub hidden_states: Var,
    /// Text embeddings, `[batch, text tokens, joint_attention_dim]`.
    pub encoder_hidden_states: Var,
    /// σ, i.e. timesteps / 1000, `[batch]`.
    pub timestep: Tensor,
    /// Position ids of the image tokens, int64 `[batch, tokens, 4]`.
    pub img_ids: Tensor,
    /// Position ids of the text tokens, int64 `[batch, text tokens, 4]`.
    pub txt_ids: Tensor,
    /// Guidance scale, `[batch]`; for models with a guidance embedding.
    pub guidance: Option<Tensor>,
    /// Per sample, the reference images that it is edited from. They get no gradient. Empty when no sample has any.
    pub references: Vec<Option<ReferenceTokens>>,
}

/// The FLUX.2 transformer.
#[derive(Debug)]
pub struct Flux2Transformer {
    config: Flux2Config,
    /// Type of activations; that of the inputs when none.
    compute: Option<DType>,
    x_embedder: Linear,
    context_embedder: Linear,
    time: TimeGuidanceEmbed,
    modulation_image: Linear,
    modulation_text: Linear,
    modulation_single: Linear,
    // Shared with the functions that the tape keeps for recomputation.
    double_blocks: Vec<Arc<DoubleBlock>>,
    single_blocks: Vec<Arc<SingleBlock>>,
    norm_out: Linear,
    proj_out: Linear,
    params: Vec<Param>,
}

impl Flux2Transformer {
    /// A model with the weights of a checkpoint, all frozen.
    ///
    /// # Errors
    /// `WEIGHTS_MISSING` or `SHAPE_MISMATCH` naming the tensor.
    pub fn load(config: Flux2Config, weights: &Weights, precision: Precision) -> Result<Self> {
        let source = &mut |name: &str, shape: &[usize]| weights.get_as(name, shape, precision.weight(name, shape));
        Ok(Self { compute: Some(precision.compute()), ..Self::build(config, source)? })
    }

    /// A model whose weights `source` makes from name and shape. It computes in the type of its inputs.
    ///
    /// # Errors
    /// What `source` returns, and `CHECKPOINT_LAYOUT` when the config contradicts itself.
    pub fn build(config: Flux2Config, source: Source) -> Result<Self> {
        let c = &config;
        if c.axes_dims_rope.iter().sum::<usize>() != c.attention_head_dim {
            return Err(layout_error(
                Path::new("transformer/config.json"),
                format!(
                    "axes_dims_rope {:?} must add up to attention_head_dim {}",
                    c.axes_dims_rope, c.attention_head_dim
                ),
            ));
        }
        let (dim, b) = (c.dim(), &mut Builder::new(source));
        let time = TimeGuidanceEmbed::build(b, c.timestep_guidance_channels, dim, c.guidance_embeds)?;
        let modulation_image = b.linear("double_stream_modulation_img.linear", 6 * dim, dim)?;
        let modulation_text = b.linear("double_stream_modulation_txt.linear", 6 * dim, dim)?;
        let modulation_single = b.linear("single_stream_modulation.linear", 3 * dim, dim)?;
        let x_embedder = b.linear("x_embedder", dim, c.in_channels)?;
        let context_embedder = b.linear("context_embedder", dim, c.joint_attention_dim)?;
        let double_blocks =
            (0..c.num_layers).map(|i| DoubleBlock::build(b, i, c).map(Arc::new)).collect::<Result<_>>()?;
        let single_blocks =
            (0..c.num_single_layers).map(|i| SingleBlock::build(b, i, c).map(Arc::new)).collect::<Result<_>>()?;
        let norm_out = b.linear("norm_out.linear", 2 * dim, dim)?;
        let proj_out = b.linear("proj_out", c.prediction_channels(), dim)?;
        let params = std::mem::take(&mut b.params);
        Ok(Self {
            config,
            compute: None,
            x_embedder,
            context_embedder,
            time,
            modulation_image,
            modulation_text,
            modulation_single,
            double_blocks,
            single_blocks,
            norm_out,
            proj_out,
            params,
        })
    }

    /// Geometry.
    pub fn config(&self) -> &Flux2Config {
        &self.config
    }

    /// Type of activations, if it is not that of the inputs.
    pub fn compute_dtype(&self) -> Option<DType> {
        self.compute
    }

    /// The weights of the base model, in checkpoint order of the layers; adapters are not among them.
    pub fn params(&self) -> &[Param] {
        &self.params
    }

    /// Where the weights are, and what is computed with them.
    pub fn device(&self) -> Device {
        self.x_embedder.weight().value().device()
    }

    /// Moves the weights, those of adapters too. Inputs and predictions stay with the caller.
    ///
    /// # Errors
    /// `OUT_OF_MEMORY` when there is no room.
    pub fn to_device(&self, device: &Device) -> Result<()> {
        let adapters = self.linears().into_iter().filter_map(Linear::lora).flat_map(|lora| [lora.a, lora.b]);
        for param in self.params.iter().cloned().chain(adapters) {
            param.set(param.value().to_device(device)?);
        }
        Ok(())
    }

    /// Names of [`Flux2Transformer::linears`].
    pub fn linear_names(&self) -> Vec<&str> {
        self.linears().into_iter().map(Linear::name).collect()
    }

    /// All linear layers; the name of each is that of its weight without `.weight`.
    pub fn linears(&self) -> Vec<&Linear> {
        let mut out = vec![&self.x_embedder, &self.context_embedder];
        self.time.linears(&mut out);
        out.extend([&self.modulation_image, &self.modulation_text, &self.modulation_single]);
        self.double_blocks.iter().for_each(|b| b.linears(&mut out));
        self.single_blocks.iter().for_each(|b| b.linears(&mut out));
        out.extend([&self.norm_out, &self.proj_out]);
        out
    }

    /// The prediction, `[batch, tokens, 128]`, in the type of the latents, without that of reference tokens. Samples with
    /// equally many of those run together. Each block is a checkpoint of the tape. Inputs and prediction are on the host,
    /// wherever the weights are.
    ///
    /// # Errors
    /// `SHAPE_MISMATCH` when the inputs do not fit the model.
    pub fn forward(&self, tape: &Tape, inputs: &Flux2Inputs) -> Result<Var> {
        references::predict(tape, inputs, |inputs, tokens| self.predict(tape, inputs, tokens))
    }

    /// The prediction for the first `tokens` image tokens of sequences of one length.
    fn predict(&self, tape: &Tape, inputs: &Flux2Inputs, tokens: usize) -> Result<Var> {
        let c = &self.config;
        let outer = inputs.hidden_states.tensor().dtype();
        let (compute, device) = (self.compute.unwrap_or(outer), self.device());
        let temb = self.time_embedding(tape, inputs, compute, &device)?;
        let activated = tape.silu(&temb)?;
        let rope = positions::rope_table(
            &inputs.txt_ids,
            &inputs.img_ids,
            &c.axes_dims_rope,
            c.rope_theta,
            if compute == DType::F64 { DType::F64 } else { DType::F32 },
        )?
        .to_device(&device)?;
        let bring = |x: &Var| tape.to_device(&tape.cast(x, compute)?, &device);
        let image = self.x_embedder.forward_wide(tape, &bring(&inputs.hidden_states)?)?;
        let text = self.context_embedder.forward_wide(tape, &bring(&inputs.encoder_hidden_states)?)?;
        let text_tokens = text.tensor().dim(1);

        // The residual stream stays in float32 when the blocks compute in bfloat16.
        let mut state = vec![image, text];
        let mut modulation = modulate(tape, &self.modulation_image, &activated, 6)?;
        modulation.extend(modulate(tape, &self.modulation_text, &activated, 6)?);
        for block in &self.double_blocks {
            let (block, rope) = (Arc::clone(block), rope.clone());
            state.extend(modulation.iter().cloned());
            state = tape.checkpoint(&state, move |tape, v| block.forward(tape, v, &rope, compute))?;
        }

        state = vec![tape.cat_tokens(&[&state[1], &state[0]])?];
        let modulation = modulate(tape, &self.modulation_single, &activated, 3)?;
        // Behind the last block, text and reference images are of no use.
        let (last, predicted) = (self.single_blocks.len().wrapping_sub(1), text_tokens..text_tokens + tokens);
        for (i, block) in self.single_blocks.iter().enumerate() {
            let (block, rope) = (Arc::clone(block), rope.clone());
            let asked = if i == last { predicted.clone() } else { 0..state[0].tensor().dim(1) };
            state.extend(modulation.iter().cloned());
            state = tape.checkpoint(&state, move |tape, v| block.forward(tape, v, &rope, &asked, compute))?;
        }

        let image =
            if self.single_blocks.is_empty() { some_tokens(tape, &state[0], &predicted)? } else { state.remove(0) };
        // diffusers `AdaLayerNormContinuous`: scale first, then shift.
        let out = modulate(tape, &self.norm_out, &activated, 2)?;
        let normed = tape.layer_norm_modulate(&image, &out[0], &out[1], c.eps, compute)?;
        let prediction = tape.cast(&self.proj_out.forward_wide(tape, &normed)?, outer)?;
        Ok(tape.to_device(&prediction, &inputs.hidden_states.tensor().device())?)
    }

    fn time_embedding(&self, tape: &Tape, inputs: &Flux2Inputs, compute: DType, device: &Device) -> Result<Var> {
        let timestep = scale_tensor(&inputs.timestep, 1000.0)?.to_device(device)?;
        let guidance = inputs.guidance.as_ref().map(|g| scale_tensor(g, 1000.0)?.to_device(device)).transpose()?;
        Ok(self.time.forward(tape, &timestep, guidance.as_ref(), compute)?)
    }
}

#[cfg(test)]
mod frozen;
