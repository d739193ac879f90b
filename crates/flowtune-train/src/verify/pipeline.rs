//! A whole model folder: template, token ids, embeddings, image, with reference images or without.

use std::path::{Path, PathBuf};

use flowtune_flow::sampling::{SampleInputs, sample};
use flowtune_models::{ModelFolder, read_safetensors};
use serde::Deserialize;

use super::TensorCheck;
use super::case::{EXACT, FORWARD, compare, extremes};
use crate::error::{Error, Result};
use crate::imaging::image_from_decoded;
use crate::reference::load_reference;
use flowtune_engine::{DType, Device, Tensor};

/// Bound of images in 0..1.
const IMAGE: f64 = 2.0 / 255.0;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Expect {
    /// The model, from the case's folder.
    #[serde(default = "beside")]
    pipeline: PathBuf,
    runs: Vec<Run>,
}

fn beside() -> PathBuf {
    "pipeline".into()
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Run {
    prompt: String,
    height: usize,
    width: usize,
    steps: usize,
    guidance_scale: f64,
    text: String,
    /// Image files in the case's folder.
    #[serde(default)]
    references: Vec<PathBuf>,
}

/// Names of a run's tensors in `expect.safetensors`, each followed by the run's number.
const TENSORS: [&str; 6] =
    ["input_ids", "attention_mask", "text_embeddings", "negative_text_embeddings", "initial_latents", "image"];

pub(super) fn run(folder: &Path, device: &Device) -> Result<Vec<TensorCheck>> {
    let file = folder.join("expect.json");
    let text = std::fs::read_to_string(&file).map_err(Error::io(&file, "read"))?;
    let expect: Expect = serde_json::from_str(&text).map_err(|e| Error::layout(&file, e.to_string()))?;
    let tensors = read_safetensors(folder.join("expect.safetensors"))?;
    let known = |name: &String| {
        name.rsplit_once('.')
            .is_some_and(|(n, i)| TENSORS.contains(&n) && i.parse::<usize>().is_ok_and(|i| i < expect.runs.len()))
    };
    if let Some(unknown) = tensors.keys().find(|n| !known(n)) {
        return Err(Error::layout(folder, format!("expect.safetensors holds {unknown}, which means nothing here")));
    }
    let model = ModelFolder::open(folder.join(expect.pipeline))?.on(device);
    let (tokenizer, encoder) = (model.tokenizer()?, model.text_encoder()?);
    let (transformer, vae) = (model.transformer(flowtune_models::Precision::FLOAT32)?, model.vae()?);
    let mut checks = Vec::new();
    for (i, run) in expect.runs.iter().enumerate() {
        let want = |name: &str| {
            let name = format!("{name}.{i}");
            let missing = || Error::layout(folder, format!("expect.safetensors has no {name}"));
            tensors.get(&name).cloned().ok_or_else(missing)
        };
        let tokens = tokenizer.encode(&[&run.prompt, ""], None)?;
        let text_error = if tokens.texts[0] == run.text { 0.0 } else { f64::INFINITY };
        checks.push(TensorCheck { name: format!("text.{i}"), error: text_error, bound: EXACT, ok: text_error == 0.0 });
        let mut check = |name: &str, got: &Tensor, bound: f64| -> Result<()> {
            checks.push(compare(&format!("{name}.{i}"), got, &want(name)?, bound)?);
            Ok(())
        };
        check("input_ids", &tokens.input_ids.rows(0, 1)?, EXACT)?;
        check("attention_mask", &tokens.attention_mask.rows(0, 1)?, EXACT)?;
        let embeddings = encoder.text_embeddings(&tokens.input_ids, &tokens.attention_mask)?;
        let (positive, negative) = (embeddings.rows(0, 1)?, embeddings.rows(1, 1)?);
        check("text_embeddings", &positive, FORWARD)?;
        check("negative_text_embeddings", &negative, FORWARD)?;
        let initial_latents = want("initial_latents")?;
        if initial_latents.shape()[2..] != [run.height / 16, run.width / 16] {
            return Err(Error::layout(folder, format!("initial_latents.{i} do not have the size of the image")));
        }
        let references = run.references.iter().map(|file| {
            let image = load_reference(&folder.join(file))?;
            Ok(vae.image_latents(&vae.encode(&image)?)?)
        });
        let references = references.collect::<Result<Vec<_>>>()?;
        let inputs = SampleInputs {
            text_embeddings: positive,
            negative_text_embeddings: Some(negative),
            initial_latents,
            steps: run.steps,
            guidance_scale: run.guidance_scale,
            references: vec![references],
        };
        let latents = sample(&transformer, &inputs, &mut |_| Ok(()))?;
        let image = image_from_decoded(&vae.decode(&vae.vae_latents(&latents)?)?)?;
        checks.push(compare_images(&format!("image.{i}"), &image, &want("image")?)?);
    }
    Ok(checks)
}

/// Worst absolute difference of images in 0..1.
fn compare_images(name: &str, got: &Tensor, want: &Tensor) -> Result<TensorCheck> {
    let error = match got.shape() == want.shape() {
        true => extremes(got.to_dtype(DType::F64)?.as_slice()?, want.to_dtype(DType::F64)?.as_slice()?).0,
        false => f64::INFINITY,
    };
    Ok(TensorCheck { name: name.to_owned(), error, bound: IMAGE, ok: error <= IMAGE })
}
