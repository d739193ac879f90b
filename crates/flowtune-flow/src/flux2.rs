//! The adapter of FLUX.2. Source: NeMo Automodel `flow_matching/adapters/flux2.py`, and diffusers for references.

use flowtune_engine::ops::layout;
use flowtune_engine::{Error as EngineError, Tape, Tensor, Var};
use flowtune_models::transformer::{Flux2Inputs, Flux2Transformer};

use crate::adapter::ModelAdapter;
use crate::context::FlowMatchingContext;
use crate::error::Result;
use crate::references;

/// Packs latents, numbers positions, passes guidance, and hands the model the references that a sample is edited from.
///
/// ```
/// use flowtune_engine::Tensor;
/// use flowtune_flow::Flux2Adapter;
///
/// # fn main() -> flowtune_flow::Result<()> {
/// let adapter = Flux2Adapter::default();
/// let packed = adapter.pack_latents(&Tensor::full(0f32, &[1, 128, 4, 6]))?;
/// assert_eq!(packed.shape(), [1, 24, 128]);
/// let ids = adapter.prepare_latent_ids(4, 6, 1)?;
/// assert_eq!(ids.as_slice::<i64>()?[4 * 7..][..4], [0, 1, 1, 0]);
/// # Ok(()) }
/// ```
#[derive(Debug, Clone, Copy)]
pub struct Flux2Adapter {
    /// Guidance scale told to models with a guidance embedding.
    pub guidance_scale: f64,
    /// Whether the model has a guidance embedding (dev has, klein has not).
    pub use_guidance_embeds: bool,
}

impl Default for Flux2Adapter {
    fn default() -> Self {
        Self { guidance_scale: 3.5, use_guidance_embeds: true }
    }
}

impl Flux2Adapter {
    /// `[batch, channels, h, w]` → `[batch, h·w, channels]`.
    ///
    /// # Errors
    /// `SHAPE_MISMATCH` when the latents do not have four dimensions.
    pub fn pack_latents(&self, latents: &Tensor) -> Result<Tensor> {
        Ok(layout::pack_latents(latents)?)
    }

    /// `[batch, h·w, channels]` → `[batch, channels, h, w]`.
    ///
    /// # Errors
    /// `SHAPE_MISMATCH` when the number of tokens is not h·w.
    pub fn unpack_latents(&self, latents: &Tensor, h: usize, w: usize) -> Result<Tensor> {
        Ok(layout::unpack_latents(latents, h, w)?)
    }

    /// int64 `[batch, h·w, 4]`, rows (T = 0, h, w, L = 0), w fastest.
    ///
    /// # Errors
    /// Never.
    pub fn prepare_latent_ids(&self, h: usize, w: usize, batch: usize) -> Result<Tensor> {
        let rows = (0..h as i64).flat_map(|y| (0..w as i64).map(move |x| [0, y, x, 0]));
        ids(rows.collect(), batch)
    }

    /// int64 `[batch, tokens, 4]`, rows (0, 0, 0, position).
    ///
    /// # Errors
    /// Never.
    pub fn prepare_text_ids(&self, tokens: usize, batch: usize) -> Result<Tensor> {
        ids((0..tokens as i64).map(|l| [0, 0, 0, l]).collect(), batch)
    }

    /// int64 `[1, Σ h·w, 4]` for one sample's references `[1, 128, h, w]` or `[128, h, w]`: rows (T = 10 + 10·i, h, w, L = 0)
    /// of reference i, w fastest. Source: diffusers `_prepare_image_ids`.
    ///
    /// # Errors
    /// `SHAPE_MISMATCH` when a reference has another rank.
    pub fn prepare_image_ids(&self, references: &[Tensor]) -> Result<Tensor> {
        references::position_ids(references)
    }

    fn guidance(&self, context: &FlowMatchingContext, batch: usize) -> Option<Tensor> {
        self.use_guidance_embeds.then(|| {
            let given = context.batch.guidance.clone();
            given.unwrap_or_else(|| Tensor::full(self.guidance_scale as f32, &[batch]))
        })
    }
}

impl ModelAdapter for Flux2Adapter {
    fn prepare_inputs(&self, context: &FlowMatchingContext) -> Result<Flux2Inputs> {
        let &[batch, channels, h, w] = context.noisy_latents.shape() else {
            let got = context.noisy_latents.shape();
            return Err(EngineError::Shape {
                op: "Flux2Adapter.prepare_inputs",
                argument: "noisy_latents",
                expected: format!("[batch, 128, h, w] (rank 4, not {})", got.len()),
                got: got.to_vec(),
            }
            .into());
        };
        let text = drop_captions(context)?;
        Ok(Flux2Inputs {
            hidden_states: Var::constant(self.pack_latents(&context.noisy_latents)?),
            timestep: sigma_of(&context.timesteps)?,
            img_ids: self.prepare_latent_ids(h, w, batch)?,
            txt_ids: self.prepare_text_ids(text.dim(1), batch)?,
            encoder_hidden_states: Var::constant(text),
            guidance: self.guidance(context, batch),
            references: references::tokens(&context.batch.references, batch, channels)?,
        })
    }

    fn forward(
        &self,
        tape: &Tape,
        model: &Flux2Transformer,
        inputs: &Flux2Inputs,
        context: &FlowMatchingContext,
    ) -> Result<Var> {
        let (h, w) = (context.noisy_latents.dim(2), context.noisy_latents.dim(3));
        let prediction = model.forward(tape, inputs)?;
        Ok(tape.unpack_latents(&prediction, h, w)?)
    }
}

/// timesteps / 1000. Divided, not multiplied by 0.001: times 1000 again it becomes an angle, where the last bit
/// of a factor shows.
fn sigma_of(timesteps: &Tensor) -> Result<Tensor> {
    let sigma: Vec<f32> = timesteps.to_f32_vec()?.iter().map(|t| t / 1000.0).collect();
    Ok(Tensor::from_vec(sigma, timesteps.shape())?)
}

fn ids(rows: Vec<[i64; 4]>, batch: usize) -> Result<Tensor> {
    let (tokens, row) = (rows.len(), rows.concat());
    Ok(Tensor::from_vec(row.repeat(batch), &[batch, tokens, 4])?)
}

/// The text embeddings with the dropped captions replaced.
fn drop_captions(context: &FlowMatchingContext) -> Result<Tensor> {
    let text = &context.batch.text_embeddings;
    if text.shape().len() != 3 || text.dim(0) != context.noisy_latents.dim(0) {
        return Err(EngineError::Shape {
            op: "Flux2Adapter.prepare_inputs",
            argument: "text_embeddings",
            expected: format!("[{}, tokens, dim]", context.noisy_latents.dim(0)),
            got: text.shape().to_vec(),
        }
        .into());
    }
    if !context.drop_caption.contains(&true) {
        return Ok(text.clone());
    }
    let row = text.dim(1) * text.dim(2);
    let mut replaced = text.clone();
    let data = replaced.as_mut_slice::<f32>()?;
    for (chunk, _) in data.chunks_exact_mut(row).zip(&context.drop_caption).filter(|(_, drop)| **drop) {
        match &context.empty_prompt {
            Some(empty) if empty.len() == row => chunk.copy_from_slice(empty.as_slice::<f32>()?),
            Some(empty) => {
                return Err(EngineError::Shape {
                    op: "Flux2Adapter.prepare_inputs",
                    argument: "empty_prompt",
                    expected: format!("[{}, {}]", text.dim(1), text.dim(2)),
                    got: empty.shape().to_vec(),
                }
                .into());
            }
            None => chunk.fill(0.0),
        }
    }
    Ok(replaced)
}
