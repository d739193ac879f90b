//! `Flux2Adapter`.

use flowtune_engine::Tensor as EngineTensor;
use flowtune_flow::{Batch, FlowMatchingContext, Flux2Adapter as FlowAdapter, ModelAdapter};
use flowtune_models::transformer::Flux2Inputs;
use napi_derive::napi;

use crate::error::{Failure, Result, guarded};
use crate::tensor::Tensor;

/// Between flow matching's latents and FLUX.2's token sequences.
#[napi]
pub struct Flux2Adapter {
    pub(crate) inner: FlowAdapter,
}

/// Options; what is left out has the default of NeMo Automodel.
#[napi(object)]
pub struct Flux2AdapterOptions {
    /// Guidance that a guidance-embedded model is told.
    pub guidance_scale: Option<f64>,
    /// Whether the model has a guidance embedding.
    pub use_guidance_embeds: Option<bool>,
}

/// What the transformer takes.
#[napi(object, object_from_js = false)]
pub struct PreparedInputs {
    /// `[batch, h·w, 128]`.
    pub hidden_states: Tensor,
    /// `[batch, tokens, dim]`.
    pub encoder_hidden_states: Tensor,
    /// `[batch]`, 0..1.
    pub timestep: Tensor,
    /// int64 `[batch, h·w, 4]`.
    pub img_ids: Tensor,
    /// int64 `[batch, tokens, 4]`.
    pub txt_ids: Tensor,
    /// float32 `[batch]`, for models with a guidance embedding.
    pub guidance: Option<Tensor>,
}

impl From<Flux2Inputs> for PreparedInputs {
    fn from(inputs: Flux2Inputs) -> Self {
        Self {
            hidden_states: inputs.hidden_states.tensor().clone().into(),
            encoder_hidden_states: inputs.encoder_hidden_states.into(),
            timestep: inputs.timestep.into(),
            img_ids: inputs.img_ids.into(),
            txt_ids: inputs.txt_ids.into(),
            guidance: inputs.guidance.map(Tensor::from),
        }
    }
}

#[napi]
impl Flux2Adapter {
    /// An adapter.
    #[napi(constructor)]
    pub fn new(options: Flux2AdapterOptions) -> Self {
        let default = FlowAdapter::default();
        let guidance_scale = options.guidance_scale.unwrap_or(default.guidance_scale);
        let use_guidance_embeds = options.use_guidance_embeds.unwrap_or(default.use_guidance_embeds);
        Self { inner: FlowAdapter { guidance_scale, use_guidance_embeds } }
    }

    /// `[batch, channels, h, w]` → `[batch, h·w, channels]`.
    #[napi]
    pub fn pack_latents(&self, latents: &Tensor) -> Result<Tensor> {
        guarded(|| Ok(self.inner.pack_latents(&latents.get()?)?.into()))
    }

    /// `[batch, h·w, channels]` → `[batch, channels, h, w]`.
    #[napi]
    pub fn unpack_latents(&self, packed: &Tensor, height: u32, width: u32) -> Result<Tensor> {
        guarded(|| Ok(self.inner.unpack_latents(&packed.get()?, height as usize, width as usize)?.into()))
    }

    /// int64 `[batch, h·w, 4]`, rows (0, h, w, 0), w fastest.
    #[napi]
    pub fn prepare_latent_ids(&self, height: u32, width: u32, batch: u32) -> Result<Tensor> {
        guarded(|| Ok(self.inner.prepare_latent_ids(height as usize, width as usize, batch as usize)?.into()))
    }

    /// int64 `[batch, tokens, 4]`, rows (0, 0, 0, position).
    #[napi]
    pub fn prepare_text_ids(&self, tokens: u32, batch: u32) -> Result<Tensor> {
        guarded(|| Ok(self.inner.prepare_text_ids(tokens as usize, batch as usize)?.into()))
    }

    /// The transformer's inputs for a batch.
    #[napi]
    pub fn prepare_inputs(
        &self,
        noisy_latents: &Tensor,
        text_embeddings: &Tensor,
        timesteps: &Tensor,
        drop_caption: Vec<bool>,
        empty_prompt: Option<&Tensor>,
        guidance: Option<&Tensor>,
    ) -> Result<PreparedInputs> {
        guarded(|| {
            let noisy_latents = noisy_latents.get()?;
            let empty_prompt = shared(empty_prompt)?;
            let batch = Batch {
                // Inputs are a function of x_t; x₀ is in the context for adapters with losses of their own.
                image_latents: noisy_latents.clone(),
                text_embeddings: text_embeddings.get()?,
                loss_mask: None,
                guidance: shared(guidance)?,
            };
            let timesteps = timesteps.get()?;
            let context = FlowMatchingContext {
                latents: noisy_latents.clone(),
                noisy_latents,
                sigma: timesteps.clone(),
                timesteps,
                task_type: "t2i",
                data_type: "image",
                drop_caption,
                empty_prompt: empty_prompt.as_ref(),
                batch: &batch,
            };
            Ok(self.inner.prepare_inputs(&context)?.into())
        })
    }
}

fn shared(tensor: Option<&Tensor>) -> Result<Option<EngineTensor>, Failure> {
    tensor.map(Tensor::get).transpose()
}
