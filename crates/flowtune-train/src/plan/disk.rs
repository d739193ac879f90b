//! What a run leaves on the disk.

use serde::Serialize;

use super::inputs::{DataSize, Model};
use super::machine::free_disk;
use super::memory::image_tokens;
use crate::error::Result;
use crate::recipe::{Mode, Recipe, WeightsDtype};

/// Header and checksum of a cached entry.
const HEADER: u64 = 256;

/// Bytes on disk.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct DiskPlan {
    /// Latents and text embeddings of all images and captions, float32; none when the data cannot be read.
    pub cache: Option<u64>,
    /// Free where the cache lies.
    pub cache_free: Option<u64>,
    /// One checkpoint: what trains, and the optimizer's moments.
    pub checkpoint: u64,
    /// Checkpoints that are kept.
    pub checkpoints: u64,
    /// The trained weights.
    pub result: u64,
    /// Free where the run folder lies.
    pub output_free: Option<u64>,
}

pub(super) fn disk(model: &Model, data: Option<DataSize>, recipe: &Recipe) -> Result<DiskPlan> {
    let trained = model.denoising(recipe, &model.ranks(recipe)?).trained().iter().sum::<usize>() as u64;
    let latents = |&side: &usize| (4 * image_tokens(side, side) * model.config.in_channels) as u64 + HEADER;
    // An image has latents at every resolution, and so have its references.
    let latents: u64 = recipe.data.resolution.iter().map(latents).sum();
    let text = (4 * model.text_tokens * model.config.joint_attention_dim) as u64 + HEADER;
    let train = &recipe.train;
    let written = train.steps.div_ceil(recipe.checkpoint.every_steps.max(1));
    let size = match (recipe.mode, recipe.output.weights_dtype) {
        (Mode::Full, WeightsDtype::Bfloat16) => 2,
        _ => 4,
    };
    Ok(DiskPlan {
        cache: data.map(|data| {
            ((data.images + data.held_out) * (1 + data.references)) as u64 * latents + data.captions as u64 * text
        }),
        cache_free: free_disk(&recipe.data.cache_dir),
        checkpoint: 12 * trained,
        checkpoints: written.min(recipe.checkpoint.keep as u64),
        result: size * trained,
        output_free: free_disk(&recipe.output.dir),
    })
}
