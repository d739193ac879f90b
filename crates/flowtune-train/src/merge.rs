//! A LoRA added into the weights of its base.

use std::collections::HashMap;
use std::fs;
use std::path::PathBuf;

use flowtune_engine::{DType, Tape, Var};
use flowtune_hub::Part;
use flowtune_models::lora::{Adapter, read_adapters};
use flowtune_models::transformer::{Flux2Transformer, WeightShape};
use flowtune_models::{Weights, save_safetensors};
use serde::{Deserialize, Serialize};

use crate::control::Control;
use crate::error::{Error, Result};
use crate::export::given_lora;
use crate::model_source::ModelSource;
use crate::output_path::must_be_free;
use crate::recipe::WeightsDtype;

/// What `merge` is asked for.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct MergeOptions {
    /// Folder of a FLUX.2 pipeline in diffusers layout, or its id on a hub.
    pub model: PathBuf,
    /// Another transformer for that pipeline, a folder or a file, which may be a hub's.
    pub transformer: Option<PathBuf>,
    /// A run folder, or a LoRA in any format, file or folder.
    pub lora: PathBuf,
    /// Type of the weights that are written; sums are float32.
    #[serde(default)]
    pub weights_dtype: WeightsDtype,
    /// The folder to make: a transformer in diffusers layout.
    pub out: PathBuf,
}

/// What `merge` wrote.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct MergeSummary {
    /// The folder.
    pub path: PathBuf,
    /// Layers that an adapter was added to.
    pub merged: usize,
    /// Weights in all.
    pub weights: usize,
}

/// Adds scale · B·A to the weights of a transformer and writes it.
///
/// # Errors
/// `INVALID_ARGUMENT` when `out` exists; those of reading the model and the LoRA; `IO`.
pub fn merge(options: MergeOptions, control: &Control) -> Result<MergeSummary> {
    must_be_free(&options.out)?;
    let source = ModelSource::given(&options.model, options.transformer.as_deref())?;
    let folder = source.fetch(&[Part::Transformer], control)?.folder;
    let (config, weights) = (folder.transformer_config()?, folder.transformer_weights()?);
    let (outline, shapes) = Flux2Transformer::outline(config.clone())?;
    let lora = given_lora(&options.lora);
    let adapters = read_adapters(&lora, &outline.linear_names())?;
    let adapters: HashMap<String, Adapter> =
        adapters.into_iter().map(|a| (format!("{}.weight", a.module), a)).collect();
    let dtype: DType = options.weights_dtype.into();
    let mut merged = Vec::with_capacity(shapes.len());
    for (i, shape) in shapes.iter().enumerate() {
        merged.push((shape.name.clone(), sum(&weights, shape, adapters.get(&shape.name), &lora)?.to_dtype(dtype)?));
        control.progress("merging", i + 1, shapes.len());
        if control.is_cancelled() {
            return Err(Error::Cancelled { checkpoint: None });
        }
    }
    fs::create_dir(&options.out).map_err(Error::io(&options.out, "made"))?;
    save_safetensors(options.out.join("diffusion_pytorch_model.safetensors"), &merged, None)?;
    // Last: a folder with a configuration is a whole one.
    config.save(&options.out)?;
    Ok(MergeSummary { path: options.out, merged: adapters.len(), weights: merged.len() })
}

/// A weight with what its adapter adds, float32.
fn sum(
    weights: &Weights,
    WeightShape { name, shape }: &WeightShape,
    adapter: Option<&Adapter>,
    lora: &std::path::Path,
) -> Result<flowtune_engine::Tensor> {
    let weight = weights.get_as(name, shape, DType::F32)?;
    let Some(adapter) = adapter else {
        return Ok(weight);
    };
    adapter.check(shape, lora)?;
    let tape = Tape::inference();
    Ok(tape.add(&Var::constant(weight), &Var::constant(adapter.delta()?))?.into_tensor())
}
