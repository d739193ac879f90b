//! `Flux2Adapter`.

use flowtune_flow::{FlowMatchingContext, Flux2Adapter as FlowAdapter, ModelAdapter};
use flowtune_models::transformer::{Flux2Inputs, ReferenceTokens};
use napi::Env;
use napi::bindgen_prelude::Object;
use napi_derive::napi;

use crate::error::{Result, guarded};
use crate::executor::promise;
use crate::flow_matching::BatchTensors;
use crate::tensor::{Tensor, optional};
use crate::tensor_ops::compute;

/// Between flow matching's latents and FLUX.2's token sequences.
#[napi]
pub struct Flux2Adapter {
    inner: FlowAdapter,
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
    /// Per sample, the images that it is edited from; empty when no sample has any.
    pub references: Vec<Option<References>>,
}

/// Reference images of one sample.
#[napi(object, object_from_js = false)]
pub struct References {
    /// `[tokens, 128]`.
    pub hidden_states: Tensor,
    /// int64 `[tokens, 4]`.
    pub ids: Tensor,
}

impl From<ReferenceTokens> for References {
    fn from(ReferenceTokens { hidden_states, ids }: ReferenceTokens) -> Self {
        Self { hidden_states: hidden_states.into(), ids: ids.into() }
    }
}

impl From<Flux2Inputs> for PreparedInputs {
    fn from(inputs: Flux2Inputs) -> Self {
        Self {
            hidden_states: inputs.hidden_states.into_tensor().into(),
            encoder_hidden_states: inputs.encoder_hidden_states.into_tensor().into(),
            timestep: inputs.timestep.into(),
            img_ids: inputs.img_ids.into(),
            txt_ids: inputs.txt_ids.into(),
            guidance: inputs.guidance.map(Tensor::from),
            references: inputs.references.into_iter().map(|r| r.map(References::from)).collect(),
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
        guarded(|| compute(&[&latents.value()?], |tape, vars| tape.pack_latents(&vars[0])))
    }

    /// `[batch, h·w, channels]` → `[batch, channels, h, w]`.
    #[napi]
    pub fn unpack_latents(&self, packed: &Tensor, height: u32, width: u32) -> Result<Tensor> {
        let (height, width) = (height as usize, width as usize);
        guarded(|| compute(&[&packed.value()?], |tape, vars| tape.unpack_latents(&vars[0], height, width)))
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

    /// int64 `[1, Σ h·w, 4]` for one sample's references, rows (10 + 10·i, h, w, 0), w fastest.
    #[napi]
    pub fn prepare_image_ids(&self, references: Vec<&Tensor>) -> Result<Tensor> {
        guarded(|| {
            let references = references.into_iter().map(Tensor::get).collect::<Result<Vec<_>, _>>()?;
            Ok(self.inner.prepare_image_ids(&references)?.into())
        })
    }

    /// A promise of the transformer's inputs for a batch.
    #[napi(ts_return_type = "Promise<PreparedInputs>")]
    pub fn prepare_inputs<'env>(
        &self,
        env: &'env Env,
        batch: BatchTensors,
        noisy_latents: &Tensor,
        timesteps: &Tensor,
        drop_caption: Vec<bool>,
        empty_prompt: Option<&Tensor>,
    ) -> napi::Result<Object<'env>> {
        let tensors = (batch.get(), noisy_latents.get(), timesteps.get(), optional(empty_prompt));
        let adapter = self.inner;
        promise(env, move || {
            let (batch, noisy_latents, timesteps, empty_prompt) = (tensors.0?, tensors.1?, tensors.2?, tensors.3?);
            let context = FlowMatchingContext {
                noisy_latents,
                latents: batch.image_latents.clone(),
                // Inputs are a function of the timesteps; σ is in the context for adapters with losses of their own.
                sigma: timesteps.clone(),
                timesteps,
                task_type: "t2i",
                data_type: "image",
                cfg_dropout_prob: 0.0,
                drop_caption,
                empty_prompt,
                batch,
            };
            Ok(PreparedInputs::from(adapter.prepare_inputs(&context)?))
        })
    }
}
