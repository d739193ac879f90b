//! Held-out loss at fixed σ with fixed noise: the curve in which progress shows, since the training loss is
//! mostly the luck of σ.

use std::path::PathBuf;

use flowtune_data::Loader;
use flowtune_engine::{Device, Tape, Tensor};
use flowtune_flow::random::{Purpose, normal_batch};
use flowtune_flow::weighting::LossWeighting;
use flowtune_flow::{FlowMatchingOptions, FlowMatchingPipeline, Flux2Adapter, Given};
use flowtune_models::lora::load_lora;
use flowtune_models::transformer::Flux2Transformer;
use serde::{Deserialize, Serialize};

use crate::control::Control;
use crate::error::{Error, Result};
use crate::event::{Event, SigmaLoss};
use crate::recipe::{Mode, Recipe};
use crate::run_folder::read_recipe;
use crate::session::{Session, flow_batch};

/// The noise is the same for every run, so that runs can be compared.
const NOISE_SEED: u64 = 0;

/// What `evaluate` is asked for: a recipe (its base model is evaluated) or a run folder (what it trained is).
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EvaluateOptions {
    /// A resolved recipe.
    pub recipe: Option<Recipe>,
    /// A run folder that has finished.
    pub run_dir: Option<PathBuf>,
}

/// Held-out loss.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct EvaluateSummary {
    /// Mean over the noise levels.
    pub loss: f64,
    /// By noise level.
    pub per_sigma: Vec<SigmaLoss>,
    /// Held-out images.
    pub images: usize,
}

/// Evaluates a model on the recipe's held-out images.
///
/// # Errors
/// `RECIPE_INVALID` without held-out images; those of reading the model and the data.
pub fn evaluate(options: EvaluateOptions, control: &Control) -> Result<EvaluateSummary> {
    let (mut recipe, run_dir) = match (options.recipe, options.run_dir) {
        (Some(recipe), None) => (recipe, None),
        (None, Some(dir)) => (read_recipe(&dir)?, Some(dir)),
        _ => return Err(Error::InvalidArgument("evaluate takes a recipe or a run folder".to_owned())),
    };
    if recipe.data.held_out.is_empty() && recipe.data.held_out_count.is_none() {
        return Err(no_held_out());
    }
    recipe = recipe.with_model(control)?;
    recipe.validation.prompts.clear();
    let emit = |event: &Event| {
        control.emit(event);
        Ok(())
    };
    let session = Session::open(&recipe, &emit, control)?;
    let model = match (&run_dir, recipe.mode) {
        (Some(dir), Mode::Full) => {
            let weights = flowtune_models::Weights::open(dir.join("transformer"))?.on(&Device::preferred()?);
            Flux2Transformer::load(session.folder.transformer_config()?, &weights, recipe.precision())?
        }
        _ => session.folder.transformer(recipe.precision())?,
    };
    if let (Some(dir), Mode::Lora) = (&run_dir, recipe.mode) {
        load_lora(&model, &dir.join("lora"))?;
    }
    let held_out = session.held_out.as_ref().ok_or_else(no_held_out)?;
    let per_sigma = held_out_loss(&model, held_out, &recipe, control)?;
    Ok(EvaluateSummary { loss: mean(&per_sigma), per_sigma, images: held_out.prepared().samples.len() })
}

fn no_held_out() -> Error {
    Error::Recipe("`data.heldOut` is needed to evaluate: name a folder, or set `data.heldOutCount`".to_owned())
}

/// Mean over noise levels.
pub(crate) fn mean(per_sigma: &[SigmaLoss]) -> f64 {
    per_sigma.iter().map(|s| s.loss).sum::<f64>() / per_sigma.len().max(1) as f64
}

/// The loss of the held-out samples at each of the recipe's noise levels.
pub(crate) fn held_out_loss(
    model: &Flux2Transformer,
    held_out: &Loader,
    recipe: &Recipe,
    control: &Control,
) -> Result<Vec<SigmaLoss>> {
    let adapter = Flux2Adapter {
        guidance_scale: recipe.flow_matching.guidance_scale,
        use_guidance_embeds: model.config().guidance_embeds,
    };
    let options = FlowMatchingOptions {
        loss_weighting: LossWeighting::None,
        cfg_dropout_prob: 0.0,
        max_loss: f64::INFINITY,
        ..FlowMatchingOptions::default()
    };
    let pipeline = FlowMatchingPipeline::new(adapter, options, None);
    let (samples, groups) = (held_out.prepared().samples.len(), held_out.groups(recipe.train.batch_size));
    let mut losses = Vec::new();
    for (level, &sigma) in recipe.validation.sigmas.iter().enumerate() {
        let mut total = 0.0;
        for indices in &groups {
            if control.is_cancelled() {
                return Err(Error::Cancelled { checkpoint: None });
            }
            let batch = flow_batch(held_out.gather(indices)?);
            let noise = evaluation_noise(level as u64, indices, batch.image_latents.shape())?;
            let sigma = Tensor::full(sigma as f32, &[indices.len()]);
            let given = Given { sigma: Some(sigma), noise: Some(noise), ..Given::default() };
            let step = pipeline.step(&Tape::inference(), model, &batch, (NOISE_SEED, 0, 0), given)?;
            total += step.metrics.unweighted_loss * indices.len() as f64;
        }
        losses.push(SigmaLoss { sigma, loss: total / samples as f64 });
    }
    Ok(losses)
}

/// Noise of these samples at a noise level, `shape`: each sample's own, in whatever batch it is.
fn evaluation_noise(level: u64, samples: &[usize], shape: &[usize]) -> Result<Tensor> {
    let row = [&[1], &shape[1..]].concat();
    let of = |&sample: &usize| normal_batch(NOISE_SEED, level, sample as u64, Purpose::EvaluationNoise, &row);
    Ok(Tensor::cat_rows(&samples.iter().map(of).collect::<Result<Vec<_>, _>>()?)?)
}
