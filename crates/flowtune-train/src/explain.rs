//! What a recipe means in numbers, before anything is loaded: noise levels, shifts, weights, what trains.

mod modules;
mod plot;

use flowtune_data::Dataset;
use flowtune_flow::shift::{FlowShift, dynamic_mu, linear_mu};
use flowtune_flow::timesteps::TimestepSampling;
use flowtune_flow::weighting::LossWeighting;
use flowtune_flow::{FlowMatching, FlowMatchingOptions};
use serde::Serialize;

use crate::error::Result;
use crate::recipe::{CaptionDropoutMode, Mode, Recipe};
pub use modules::ModuleGroup;
pub(crate) use modules::ranks;
use modules::trained_modules;
pub use plot::draw_explanation;

/// σ that the density is made of.
const DRAWS: usize = 200_000;
/// Bins of the density.
const BINS: usize = 40;
/// Points of the weighting's curve.
const CURVE: usize = 50;
/// Sides of squares whose shifts are shown for comparison, in pixels.
const RESOLUTIONS: [usize; 5] = [256, 512, 768, 1024, 1536];
/// Pixels of a token's side.
const TOKEN: usize = 16;

/// A recipe in numbers.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Explanation {
    /// How σ is drawn.
    pub timestep_sampling: TimestepSampling,
    /// Whether the strategy and the shift apply.
    pub use_sigma_noise: bool,
    /// How σ is shifted.
    pub flow_shift: FlowShift,
    /// Distribution of σ for each size of images.
    pub buckets: Vec<Bucket>,
    /// The shift at other resolutions.
    pub shifts: Vec<Shift>,
    /// The weighting of the loss.
    pub loss_weighting: LossWeighting,
    /// `[σ, weight]`, for the first bucket.
    pub weights: Vec<[f64; 2]>,
    /// Guidance that the model is told; none when it has no guidance embedding.
    pub guidance: Option<f64>,
    /// Probability of dropping a caption.
    pub caption_dropout: f64,
    /// What stands in for a dropped caption.
    pub caption_dropout_mode: CaptionDropoutMode,
    /// What trains.
    pub mode: Mode,
    /// Trained modules, blocks taken together.
    pub modules: Vec<ModuleGroup>,
    /// Numbers that train.
    pub trainable_parameters: u64,
    /// Numbers in the transformer, without adapters.
    pub total_parameters: u64,
    /// Optimizer steps.
    pub steps: u64,
    /// Samples of one optimizer step.
    pub samples_per_step: usize,
    /// Training images; none when their folder cannot be read.
    pub images: Option<usize>,
}

/// Noise levels of images of one size.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Bucket {
    /// Pixels.
    pub width: usize,
    /// Pixels.
    pub height: usize,
    /// Image tokens.
    pub tokens: usize,
    /// The shift; none where σ is drawn without one.
    pub shift: Option<f64>,
    /// Density of σ over bins of equal width in 0..1; its mean is 1.
    pub density: Vec<f64>,
    /// Mean σ.
    pub mean: f64,
    /// σ below which a tenth, a half and nine tenths of the draws lie.
    pub quantiles: [f64; 3],
}

/// The shift at a resolution.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Shift {
    /// Side of a square, in pixels.
    pub resolution: usize,
    /// Image tokens.
    pub tokens: usize,
    /// μ, where the shift is e^μ.
    pub mu: Option<f64>,
    /// The shift.
    pub shift: f64,
}

/// Reads the model's configuration and lists the images; no weights are read.
///
/// # Errors
/// `CHECKPOINT_LAYOUT` when the model folder is none; `RECIPE_INVALID` when `lora.targets` selects nothing.
pub fn explain(recipe: &Recipe) -> Result<Explanation> {
    let config = recipe.model.open()?.transformer_config()?;
    let flow = FlowMatching::new(recipe.flow_matching.options(), None);
    let sides = &recipe.data.resolution;
    let of_side = |&side: &usize| bucket(&flow, recipe.train.seed, side, side);
    let buckets = sides.iter().map(of_side).collect::<Result<Vec<_>>>()?;
    let mut resolutions = [&RESOLUTIONS[..], sides].concat();
    resolutions.sort_unstable();
    resolutions.dedup();
    let guidance = config.guidance_embeds.then_some(recipe.flow_matching.guidance_scale);
    let trained = trained_modules(recipe, config)?;
    Ok(Explanation {
        timestep_sampling: recipe.flow_matching.timestep_sampling,
        use_sigma_noise: recipe.flow_matching.use_sigma_noise,
        flow_shift: recipe.flow_matching.flow_shift,
        weights: weights(&flow, buckets[0].tokens)?,
        buckets,
        shifts: resolutions.into_iter().map(|side| shift(recipe.flow_matching.flow_shift, side)).collect(),
        loss_weighting: recipe.flow_matching.loss_weighting,
        guidance,
        caption_dropout: recipe.flow_matching.caption_dropout,
        caption_dropout_mode: recipe.flow_matching.caption_dropout_mode,
        mode: recipe.mode,
        trainable_parameters: trained.groups.iter().map(|group| group.parameters).sum(),
        modules: trained.groups,
        total_parameters: trained.total,
        steps: recipe.train.steps,
        samples_per_step: recipe.samples_per_step(),
        images: images(recipe),
    })
}

/// The distribution as training draws it: by drawing.
fn bucket(flow: &FlowMatching, seed: u64, width: usize, height: usize) -> Result<Bucket> {
    let tokens = (width / TOKEN) * (height / TOKEN);
    // In batches, since a share of the batches may be uniform.
    let batch = 100;
    let mut sigma = Vec::with_capacity(DRAWS);
    for step in 0..DRAWS / batch {
        let drawn = flow.sample_timesteps((seed, step as u64, 0), batch, tokens)?;
        sigma.extend_from_slice(drawn.sigma.as_slice::<f32>()?);
    }
    sigma.sort_by(f32::total_cmp);
    let mut density = vec![0.0; BINS];
    for &sigma in &sigma {
        density[((sigma * BINS as f32) as usize).min(BINS - 1)] += BINS as f64 / DRAWS as f64;
    }
    let quantile = |share: f64| f64::from(sigma[(share * DRAWS as f64) as usize]);
    Ok(Bucket {
        width,
        height,
        tokens,
        shift: is_shifted(&flow.options).then(|| flow.options.flow_shift.factor(tokens)),
        density,
        mean: sigma.iter().map(|&s| f64::from(s)).sum::<f64>() / DRAWS as f64,
        quantiles: [quantile(0.1), quantile(0.5), quantile(0.9)],
    })
}

fn is_shifted(options: &FlowMatchingOptions) -> bool {
    options.use_sigma_noise && options.timestep_sampling != TimestepSampling::Beta
}

fn shift(flow_shift: FlowShift, resolution: usize) -> Shift {
    let tokens = (resolution / TOKEN).pow(2);
    let mu = match flow_shift {
        FlowShift::Dynamic => Some(dynamic_mu(tokens)),
        FlowShift::Linear => Some(linear_mu(tokens)),
        FlowShift::Sqrt | FlowShift::Constant(_) => None,
    };
    Shift { resolution, tokens, mu, shift: flow_shift.factor(tokens) }
}

fn weights(flow: &FlowMatching, tokens: usize) -> Result<Vec<[f64; 2]>> {
    let sigma: Vec<f32> = (0..=CURVE).map(|i| i as f32 / CURVE as f32).collect();
    let weights = flow.loss_weights(&flowtune_engine::Tensor::from_vec(sigma.clone(), &[CURVE + 1])?, tokens)?;
    let weights = weights.to_f32_vec()?;
    Ok(sigma.into_iter().zip(weights).map(|(s, w)| [f64::from(s), f64::from(w)]).collect())
}

fn images(recipe: &Recipe) -> Option<usize> {
    let listed = Dataset::open(&recipe.data.train_sources(), &recipe.data.options()).ok()?.items.len();
    Some(listed.saturating_sub(recipe.data.held_out_count.unwrap_or(0)))
}

#[cfg(test)]
mod tests;
