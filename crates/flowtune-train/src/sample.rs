//! Sample images: of a prompt on demand, and of a run's validation prompts.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::Instant;

use flowtune_data::save_png;
use flowtune_engine::Tensor;
use flowtune_flow::random::{Purpose, normal_batch};
use flowtune_flow::sampling::{SampleInputs, sample as run_sampler};
use flowtune_hub::Part;
use flowtune_models::lora::load_lora;
use flowtune_models::transformer::Flux2Transformer;
use flowtune_models::vae::AutoencoderKLFlux2;
use flowtune_models::{ComputeDtype, Precision, Quantization, save_safetensors};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::control::Control;
use crate::error::{Error, Result};
use crate::imaging::image_from_decoded;
use crate::model_source::ModelSource;
use crate::output_path::must_be_free;
use crate::reference::load_reference;

/// What `sample` is asked for.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SampleOptions {
    /// Folder of a FLUX.2 pipeline in diffusers layout, or its id on a hub.
    pub model: PathBuf,
    /// Another transformer for that pipeline, a folder or a file, which may be a hub's.
    pub transformer: Option<PathBuf>,
    /// A LoRA in diffusers/PEFT form, file or folder.
    pub lora: Option<PathBuf>,
    /// What to show.
    pub prompt: String,
    /// What to move away from.
    #[serde(default)]
    pub negative_prompt: String,
    /// Images to make it from, in the order in which the prompt speaks of them.
    #[serde(default)]
    pub references: Vec<PathBuf>,
    /// Pixels, a multiple of 16.
    pub width: usize,
    /// Pixels, a multiple of 16.
    pub height: usize,
    /// Euler steps; 28, or 4 for distilled models.
    pub steps: Option<usize>,
    /// Classifier-free guidance; 4, or none for distilled models.
    pub guidance_scale: Option<f64>,
    /// Seed of the initial noise.
    #[serde(default)]
    pub seed: u64,
    /// Type that the transformer computes in, and of its weights.
    #[serde(default)]
    pub dtype: ComputeDtype,
    /// What the transformer's weights are kept in instead.
    #[serde(default)]
    pub quantization: Quantization,
    /// The PNG to write; must not exist.
    pub out: PathBuf,
    /// Where to write embeddings, initial latents and the image as safetensors.
    pub dump: Option<PathBuf>,
}

/// What `sample` wrote.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SampleSummary {
    /// The PNG.
    pub path: PathBuf,
    /// The tensors.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dump: Option<PathBuf>,
    /// Wall-clock seconds, loading included.
    pub seconds: f64,
}

/// Makes one image.
///
/// # Errors
/// `INVALID_ARGUMENT` when a size is no multiple of 16 or `out` exists; `DATA_UNREADABLE` for a reference that is no image;
/// those of reading the model.
pub fn sample(options: SampleOptions, control: &Control) -> Result<SampleSummary> {
    let start = Instant::now();
    check(&options)?;
    let references = options.references.iter().map(|path| load_reference(path)).collect::<Result<Vec<_>>>()?;
    let source = ModelSource::given(&options.model, options.transformer.as_deref())?;
    let folder = source.fetch(&Part::ALL, control)?.folder;
    let prompts = [options.prompt.as_str(), options.negative_prompt.as_str()];
    let tokens = folder.tokenizer()?.encode(&prompts, None)?;
    let embeddings = folder.text_encoder()?.text_embeddings(&tokens.input_ids, &tokens.attention_mask)?;
    let vae = folder.vae()?;
    let references = references.iter().map(|image| Ok(vae.image_latents(&vae.encode(image)?)?));
    let references = references.collect::<Result<Vec<_>>>()?;
    let model =
        folder.transformer(Precision { dtype: options.dtype, quantization: options.quantization, trainable: false })?;
    if let Some(lora) = &options.lora {
        load_lora(&model, lora)?;
    }
    let shape = [1, model.config().in_channels, options.height / 16, options.width / 16];
    let distilled = folder.is_distilled();
    let inputs = SampleInputs {
        text_embeddings: embeddings.rows(0, 1)?,
        negative_text_embeddings: (!distilled).then(|| embeddings.rows(1, 1)).transpose()?,
        initial_latents: normal_batch(options.seed, 0, 0, Purpose::InitialLatents, &shape)?,
        steps: options.steps.unwrap_or(if distilled { 4 } else { 28 }),
        guidance_scale: options.guidance_scale.unwrap_or(if distilled { 1.0 } else { 4.0 }),
        references: vec![references],
    };
    let image = render(&model, &vae, &inputs, "sampling", control)?;
    save_png(&image.reshape(&image.shape()[1..])?, &options.out)?;
    if let Some(dump) = &options.dump {
        write_dump(dump, &options, &inputs, &embeddings.rows(1, 1)?, &image)?;
    }
    Ok(SampleSummary { path: options.out, dump: options.dump, seconds: start.elapsed().as_secs_f64() })
}

fn check(options: &SampleOptions) -> Result<()> {
    for (name, value) in [("width", options.width), ("height", options.height)] {
        if value == 0 || !value.is_multiple_of(16) {
            return Err(Error::InvalidArgument(format!("{name} must be a multiple of 16, got {value}")));
        }
    }
    for path in [Some(&options.out), options.dump.as_ref()].into_iter().flatten() {
        must_be_free(path)?;
    }
    Ok(())
}

/// Samples and decodes one image, `[1, 3, H, W]` in 0..1.
pub(crate) fn render(
    model: &Flux2Transformer,
    vae: &AutoencoderKLFlux2,
    inputs: &SampleInputs,
    stage: &str,
    control: &Control,
) -> Result<Tensor> {
    let latents = sample_latents(model, inputs, stage, control)?;
    image_from_decoded(&vae.decode(&vae.vae_latents(&latents)?)?)
}

/// Samples latents, `[batch, 128, h, w]`, telling the progress of `stage`.
///
/// # Errors
/// `CANCELLED` when asked to stop; those of the sampler.
pub fn sample_latents(
    model: &Flux2Transformer,
    inputs: &SampleInputs,
    stage: &str,
    control: &Control,
) -> Result<Tensor> {
    let mut cancelled = false;
    let latents = run_sampler(model, inputs, &mut |done| {
        control.progress(stage, done, inputs.steps);
        cancelled = control.is_cancelled();
        match cancelled {
            true => Err(flowtune_flow::Error::Invalid("stopped".to_owned())),
            false => Ok(()),
        }
    });
    match cancelled {
        true => Err(Error::Cancelled { checkpoint: None }),
        false => Ok(latents?),
    }
}

fn write_dump(
    path: &Path,
    options: &SampleOptions,
    inputs: &SampleInputs,
    negative: &Tensor,
    image: &Tensor,
) -> Result<()> {
    let mut tensors = vec![
        ("initial_latents".to_owned(), inputs.initial_latents.clone()),
        ("text_embeddings".to_owned(), inputs.text_embeddings.clone()),
        ("negative_text_embeddings".to_owned(), negative.clone()),
        ("image".to_owned(), image.clone()),
    ];
    let references = inputs.references.iter().flatten().enumerate();
    tensors.extend(references.map(|(i, latents)| (format!("reference_latents.{i}"), latents.clone())));
    let info = json!({
        "prompt": options.prompt,
        "negative_prompt": options.negative_prompt,
        "steps": inputs.steps,
        "guidance_scale": inputs.guidance_scale,
        "height": options.height,
        "width": options.width,
    });
    let metadata = HashMap::from([("flowtune_sample".to_owned(), info.to_string())]);
    Ok(save_safetensors(path, &tensors, Some(metadata))?)
}
