//! Cases `adapter` and `schedule`.

use flowtune_engine::Tensor;
use flowtune_flow::shift::{TimeShift, time_shift};
use flowtune_flow::timesteps::{SigmaOptions, Sigmas, TimestepSampling, sigma_of};
use flowtune_flow::weighting::{LossWeighting, bsmntw_table};
use flowtune_flow::{Batch, FlowMatchingContext, Flux2Adapter, ModelAdapter};
use serde::Deserialize;
use serde::de::IntoDeserializer;
use serde::de::value::Error as NameError;

use super::case::{Case, EXACT, FORWARD};
use crate::error::{Error, Result};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AdapterInfo {
    guidance_scale: f64,
    use_guidance_embeds: bool,
}

pub(super) fn adapter(case: &Case) -> Result<()> {
    let info: AdapterInfo = case.info()?;
    let adapter = Flux2Adapter { guidance_scale: info.guidance_scale, use_guidance_embeds: info.use_guidance_embeds };
    let latents = case.input("noisy_latents")?;
    let batch = Batch {
        image_latents: latents.clone(),
        text_embeddings: case.input("text_embeddings")?,
        loss_mask: None,
        guidance: None,
        references: Vec::new(),
    };
    let timesteps = case.input("timesteps")?;
    let context = FlowMatchingContext {
        noisy_latents: latents.clone(),
        latents: latents.clone(),
        sigma: timesteps.clone(),
        timesteps,
        task_type: "t2i",
        data_type: "image",
        drop_caption: vec![false; latents.dim(0)],
        empty_prompt: None,
        cfg_dropout_prob: 0.0,
        batch,
    };
    let inputs = adapter.prepare_inputs(&context)?;
    let packed = inputs.hidden_states.tensor();
    case.expect("hidden_states", packed, FORWARD)?;
    case.expect("encoder_hidden_states", inputs.encoder_hidden_states.tensor(), FORWARD)?;
    case.expect("timestep", &inputs.timestep, FORWARD)?;
    case.expect("img_ids", &inputs.img_ids, EXACT)?;
    case.expect("txt_ids", &inputs.txt_ids, EXACT)?;
    if let Some(guidance) = &inputs.guidance {
        case.expect("guidance", guidance, FORWARD)?;
    }
    case.expect("unpacked", &adapter.unpack_latents(packed, latents.dim(2), latents.dim(3))?, FORWARD)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ScheduleInfo {
    flow_shift: f64,
    sigma_min: f64,
    sigma_max: f64,
    logit_mean: f64,
    logit_std: f64,
}

pub(super) fn schedule(case: &Case) -> Result<()> {
    let info: ScheduleInfo = case.info()?;
    let (uniform, normal) = (case.input("uniform")?.to_f32_vec()?, case.input("normal")?.to_f32_vec()?);
    for method in case.names("expect.sigma.") {
        let no_shift = method == "uniform_no_shift";
        let options = SigmaOptions {
            sampling: if no_shift { TimestepSampling::Uniform } else { named(case, &method)? },
            logit_mean: info.logit_mean,
            logit_std: info.logit_std,
            beta: [2.5, 1.5],
            shift: info.flow_shift,
            sigma_min: info.sigma_min,
            sigma_max: info.sigma_max,
            use_sigma_noise: !no_shift,
        };
        let sigma = uniform.iter().zip(&normal).map(|(&u, &n)| sigma_of(&options, u, n)).collect();
        let sigmas = Sigmas::new(sigma, "given")?;
        case.expect(&format!("sigma.{method}"), &sigmas.sigma, FORWARD)?;
        case.expect(&format!("timesteps.{method}"), &sigmas.timesteps, FORWARD)?;
        if method == "uniform" {
            weights(case, &sigmas, info.flow_shift as f32)?;
        }
    }
    shifts(case)
}

fn weights(case: &Case, sigmas: &Sigmas, shift: f32) -> Result<()> {
    let table = bsmntw_table();
    let sigma = sigmas.sigma.as_slice::<f32>()?;
    for scheme in case.names("expect.weight.") {
        let weighting: LossWeighting = named(case, &scheme)?;
        let weight: Vec<f32> = sigma.iter().map(|&s| weighting.weight(s, shift, &table)).collect();
        let weight = Tensor::from_vec(weight, &[sigma.len()])?;
        case.expect(&format!("weight.{scheme}"), &weight, FORWARD)?;
    }
    let length = table.len();
    case.expect("bsmntw_table", &Tensor::from_vec(table, &[length])?, FORWARD)
}

fn shifts(case: &Case) -> Result<()> {
    let t = case.input("t")?.to_f32_vec()?;
    for name in case.names("expect.time_shift.") {
        let unknown = || Error::layout(case.folder(), format!("time_shift.{name} is not known to this version"));
        let (kind, tokens) = name.split_once('.').ok_or_else(unknown)?;
        let (kind, tokens) = (named::<TimeShift>(case, kind)?, tokens.parse().map_err(|_| unknown())?);
        let shifted: Vec<f32> = t.iter().map(|&t| time_shift(t, tokens, kind)).collect();
        let shifted = Tensor::from_vec(shifted, &[t.len()])?;
        case.expect(&format!("time_shift.{name}"), &shifted, FORWARD)?;
    }
    Ok(())
}

/// A variant by the name that recipes give it.
pub(super) fn named<T: for<'de> Deserialize<'de>>(case: &Case, name: &str) -> Result<T> {
    T::deserialize(name.into_deserializer()).map_err(|e: NameError| Error::layout(case.folder(), e.to_string()))
}
