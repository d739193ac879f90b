//! The VAE and the text encoder.

use std::path::Path;
use std::sync::Arc;

use flowtune_models::text::{PromptTokenizer, TextConfig, TextEncoder as Encoder};
use flowtune_models::vae::{AutoencoderKLFlux2 as Vae, VaeConfig};
use flowtune_models::{ModelFolder, Weights};
use flowtune_train::{Part, image_from_decoded, local_path};
use napi::Env;
use napi::bindgen_prelude::Object;
use napi_derive::napi;
use serde_json::Value;

use crate::error::{Failure, Result};
use crate::executor::promise;
use crate::optimizer::by_name;
use crate::progress::{CancelToken, EventCallback, control};
use crate::tensor::Tensor;

/// The VAE.
#[napi(js_name = "AutoencoderKLFlux2")]
pub struct AutoencoderKLFlux2 {
    inner: Arc<Vae>,
}

impl AutoencoderKLFlux2 {
    fn compute<'env>(
        &self,
        env: &'env Env,
        input: &Tensor,
        f: impl FnOnce(&Vae, &flowtune_engine::Tensor) -> Result<flowtune_engine::Tensor, Failure> + Send + 'static,
    ) -> napi::Result<Object<'env>> {
        let (vae, input) = (Arc::clone(&self.inner), input.get());
        promise(env, move || Ok(Tensor::from(f(&vae, &input?)?)))
    }
}

#[napi]
impl AutoencoderKLFlux2 {
    /// A promise of the VAE of a model folder; of a hub's model after its download.
    #[napi(ts_return_type = "Promise<AutoencoderKLFlux2>")]
    pub fn load<'env>(
        env: &'env Env,
        path: String,
        cancel: &CancelToken,
        on_event: EventCallback,
    ) -> napi::Result<Object<'env>> {
        let control = control(cancel, on_event);
        promise(env, move || {
            let path = local_path(Path::new(&path), &[Part::Vae], &control)?;
            Ok(Self { inner: Arc::new(ModelFolder::open(path)?.vae()?) })
        })
    }

    /// A promise of a VAE with this configuration (JSON) and these weights.
    #[napi(ts_return_type = "Promise<AutoencoderKLFlux2>")]
    pub fn from_config<'env>(
        env: &'env Env,
        config_json: String,
        names: Vec<String>,
        tensors: Vec<&Tensor>,
    ) -> napi::Result<Object<'env>> {
        let weights = by_name(names, &tensors);
        promise(env, move || {
            let config: VaeConfig = parse(&config_json)?;
            Ok(Self { inner: Arc::new(Vae::load(config, &Weights::from_tensors(weights?))?) })
        })
    }

    /// Image `[batch, 3, H, W]` in −1..1 → mode of the posterior `[batch, 32, H/8, W/8]`.
    #[napi(ts_return_type = "Promise<Tensor>")]
    pub fn encode<'env>(&self, env: &'env Env, images: &Tensor) -> napi::Result<Object<'env>> {
        self.compute(env, images, |vae, images| Ok(vae.encode(images)?))
    }

    /// Mode → what the transformer is trained on, `[batch, 128, H/16, W/16]`.
    #[napi(ts_return_type = "Promise<Tensor>")]
    pub fn image_latents<'env>(&self, env: &'env Env, mode: &Tensor) -> napi::Result<Object<'env>> {
        self.compute(env, mode, |vae, mode| Ok(vae.image_latents(mode)?))
    }

    /// The inverse of `image_latents`.
    #[napi(ts_return_type = "Promise<Tensor>")]
    pub fn vae_latents<'env>(&self, env: &'env Env, image_latents: &Tensor) -> napi::Result<Object<'env>> {
        self.compute(env, image_latents, |vae, latents| Ok(vae.vae_latents(latents)?))
    }

    /// Latent `[batch, 32, h, w]` → `[batch, 3, 8·h, 8·w]`, about −1..1.
    #[napi(ts_return_type = "Promise<Tensor>")]
    pub fn decode<'env>(&self, env: &'env Env, latent: &Tensor) -> napi::Result<Object<'env>> {
        self.compute(env, latent, |vae, latent| Ok(vae.decode(latent)?))
    }

    /// Image `[batch, 3, H, W]` in −1..1 → `[batch, 128, H/16, W/16]`.
    #[napi(ts_return_type = "Promise<Tensor>")]
    pub fn encode_images<'env>(&self, env: &'env Env, images: &Tensor) -> napi::Result<Object<'env>> {
        self.compute(env, images, |vae, images| Ok(vae.image_latents(&vae.encode(images)?)?))
    }

    /// `[batch, 128, h, w]` → images `[batch, 3, 16·h, 16·w]` in 0..1.
    #[napi(ts_return_type = "Promise<Tensor>")]
    pub fn decode_latents<'env>(&self, env: &'env Env, image_latents: &Tensor) -> napi::Result<Object<'env>> {
        self.compute(env, image_latents, |vae, latents| {
            Ok(image_from_decoded(&vae.decode(&vae.vae_latents(latents)?)?)?)
        })
    }
}

/// The text encoder and its tokenizer.
#[napi]
pub struct TextEncoder {
    encoder: Arc<Encoder>,
    tokenizer: Option<Arc<PromptTokenizer>>,
}

/// Prompts as token ids.
#[napi(object, object_from_js = false)]
pub struct Tokens {
    /// int64 `[batch, tokens]`.
    pub input_ids: Tensor,
    /// int64 `[batch, tokens]`.
    pub attention_mask: Tensor,
    /// What the chat template made of the prompts.
    pub texts: Vec<String>,
    /// Whether a prompt was cut.
    pub truncated: Vec<bool>,
}

#[napi]
impl TextEncoder {
    /// A promise of the text encoder and the tokenizer of a model folder; of a hub's model after its download.
    #[napi(ts_return_type = "Promise<TextEncoder>")]
    pub fn load<'env>(
        env: &'env Env,
        path: String,
        cancel: &CancelToken,
        on_event: EventCallback,
    ) -> napi::Result<Object<'env>> {
        let control = control(cancel, on_event);
        promise(env, move || {
            let path = local_path(Path::new(&path), &[Part::TextEncoder, Part::Tokenizer], &control)?;
            let folder = ModelFolder::open(path)?;
            let tokenizer = Some(Arc::new(folder.tokenizer()?));
            Ok(Self { encoder: Arc::new(folder.text_encoder()?), tokenizer })
        })
    }

    /// A promise of an encoder with this configuration (JSON) and these weights, without tokenizer. `layers` are the
    /// hidden states that are joined.
    #[napi(ts_return_type = "Promise<TextEncoder>")]
    pub fn from_config<'env>(
        env: &'env Env,
        config_json: String,
        layers: Vec<u32>,
        names: Vec<String>,
        tensors: Vec<&Tensor>,
    ) -> napi::Result<Object<'env>> {
        let weights = by_name(names, &tensors);
        promise(env, move || {
            let config = TextConfig::from_json(&parse::<Value>(&config_json)?, Path::new("config"))?;
            let layers: Vec<usize> = layers.iter().map(|&layer| layer as usize).collect();
            let encoder = Encoder::load(config, &Weights::from_tensors(weights?), &layers)?;
            Ok(Self { encoder: Arc::new(encoder), tokenizer: None })
        })
    }

    /// A promise of the prompts' token ids.
    #[napi(ts_return_type = "Promise<Tokens>")]
    pub fn tokenize<'env>(
        &self,
        env: &'env Env,
        prompts: Vec<String>,
        text_tokens: Option<u32>,
    ) -> napi::Result<Object<'env>> {
        let tokenizer = self.tokenizer.clone();
        promise(env, move || {
            let message = "this text encoder was made from a configuration and has no tokenizer; load a model folder";
            let tokenizer = tokenizer.ok_or_else(|| Failure::new("INVALID_ARGUMENT", message))?;
            let prompts: Vec<&str> = prompts.iter().map(String::as_str).collect();
            let tokens = tokenizer.encode(&prompts, text_tokens.map(|tokens| tokens as usize))?;
            Ok(Tokens {
                input_ids: tokens.input_ids.into(),
                attention_mask: tokens.attention_mask.into(),
                texts: tokens.texts,
                truncated: tokens.truncated,
            })
        })
    }

    /// A promise of the embeddings of token ids, `[batch, tokens, dim]`.
    #[napi(ts_return_type = "Promise<Tensor>")]
    pub fn text_embeddings<'env>(
        &self,
        env: &'env Env,
        input_ids: &Tensor,
        attention_mask: &Tensor,
    ) -> napi::Result<Object<'env>> {
        let (encoder, ids, mask) = (Arc::clone(&self.encoder), input_ids.get(), attention_mask.get());
        promise(env, move || Ok(Tensor::from(encoder.text_embeddings(&ids?, &mask?)?)))
    }
}

fn parse<T: serde::de::DeserializeOwned>(json: &str) -> Result<T, Failure> {
    serde_json::from_str(json).map_err(|error| Failure::new("RECIPE_INVALID", format!("config: {error}")))
}
