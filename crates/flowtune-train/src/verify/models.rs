//! Cases `vae`, `text` and `sample`.

use flowtune_engine::{Device, Tensor};
use flowtune_flow::sampling::{SampleInputs, euler_sigmas, sample as run_sampler};
use flowtune_models::text::{TextConfig, TextEncoder};
use flowtune_models::transformer::{Flux2Config, Flux2Transformer};
use flowtune_models::vae::{AutoencoderKLFlux2, VaeConfig};
use serde::Deserialize;
use serde_json::Value;

use super::case::{Case, FORWARD};
use crate::error::{Error, Result};
use crate::imaging::image_from_decoded;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct VaeInfo {
    vae: VaeConfig,
}

pub(super) fn vae(case: &Case, device: &Device) -> Result<()> {
    let vae = AutoencoderKLFlux2::load(case.info::<VaeInfo>()?.vae, &case.model_weights("")?.on(device))?;
    let mode = vae.encode(&case.input("image")?)?;
    case.expect("mode", &mode, FORWARD)?;
    let latents = vae.image_latents(&mode)?;
    case.expect("image_latents", &latents, FORWARD)?;
    case.expect("decoded", &vae.decode(&vae.vae_latents(&latents)?)?, FORWARD)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TextInfo {
    family: String,
    config: Value,
    layers: Vec<usize>,
    padding_side: String,
}

pub(super) fn text(case: &Case, device: &Device) -> Result<()> {
    let info: TextInfo = case.info()?;
    if !["left", "right"].contains(&info.padding_side.as_str()) {
        return Err(Error::layout(case.folder(), format!("padding_side `{}` is not known", info.padding_side)));
    }
    let mut config = info.config;
    config["model_type"] = Value::String(info.family);
    let config = TextConfig::from_json(&config, &case.folder().join("case.json"))?;
    let encoder = TextEncoder::load(config, &case.model_weights("")?.on(device), &info.layers)?;
    let embeddings = encoder.text_embeddings(&case.input("input_ids")?, &case.input("attention_mask")?)?;
    case.expect("text_embeddings", &embeddings, FORWARD)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SampleInfo {
    transformer: Flux2Config,
    vae: VaeConfig,
    steps: usize,
    guidance_scale: Option<f64>,
    height: usize,
    width: usize,
    scheduler: Value,
}

pub(super) fn sample(case: &Case, device: &Device) -> Result<()> {
    let info: SampleInfo = case.info()?;
    check_scheduler(case, &info.scheduler)?;
    let model = Flux2Transformer::load(
        info.transformer.clone(),
        &case.model_weights("transformer.")?.on(device),
        flowtune_models::Precision::FLOAT32,
    )?;
    let vae = AutoencoderKLFlux2::load(info.vae, &case.model_weights("vae.")?.on(device))?;
    let negative = case.input("negative_text_embeddings")?;
    let inputs = SampleInputs {
        text_embeddings: case.input("text_embeddings")?,
        negative_text_embeddings: info.guidance_scale.map(|_| negative),
        initial_latents: case.input("initial_latents")?,
        steps: info.steps,
        guidance_scale: info.guidance_scale.unwrap_or(1.0),
        references: Vec::new(),
    };
    if inputs.initial_latents.shape()[2..] != [info.height / 16, info.width / 16] {
        return Err(Error::layout(case.folder(), "initial_latents do not have the size of the image"));
    }
    let sigmas = euler_sigmas(info.height / 16 * (info.width / 16), info.steps);
    case.expect("sigmas", &Tensor::from_vec(sigmas, &[info.steps + 1])?, FORWARD)?;
    let latents = run_sampler(&model, &inputs, &mut |_| Ok(()))?;
    let vae_latents = vae.vae_latents(&latents)?;
    case.expect("vae_latents", &vae_latents, FORWARD)?;
    case.expect("image", &image_from_decoded(&vae.decode(&vae_latents)?)?, FORWARD)
}

/// The sampler is FLUX.2's; a case with another schedule would be compared with the wrong thing.
fn check_scheduler(case: &Case, scheduler: &Value) -> Result<()> {
    let flux2 = [
        ("num_train_timesteps", Value::from(1000)),
        ("use_dynamic_shifting", Value::from(true)),
        ("time_shift_type", Value::from("exponential")),
        ("invert_sigmas", Value::from(false)),
        ("shift_terminal", Value::Null),
        ("use_karras_sigmas", Value::from(false)),
        ("use_exponential_sigmas", Value::from(false)),
        ("use_beta_sigmas", Value::from(false)),
        ("stochastic_sampling", Value::from(false)),
    ];
    match flux2.iter().find(|(key, value)| scheduler[*key] != *value) {
        Some((key, value)) => {
            let reason = format!("scheduler.{key} is {}, this version knows {value}", scheduler[*key]);
            Err(Error::layout(case.folder(), reason))
        }
        None => Ok(()),
    }
}
