//! Filling the cache without training.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use flowtune_data::Sample;
use serde::{Deserialize, Serialize};

use crate::control::Control;
use crate::error::Result;
use crate::event::Event;
use crate::recipe::Recipe;
use crate::session::Session;

/// What `prepare` is asked for.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PrepareOptions {
    /// A resolved recipe.
    pub recipe: Recipe,
}

/// What `prepare` cached.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PrepareSummary {
    /// Where.
    pub cache_dir: PathBuf,
    /// Images, held-out ones included.
    pub images: usize,
    /// Sizes that they are trained at, smallest first.
    pub buckets: Vec<BucketSummary>,
    /// Distinct captions and prompts, the empty one included.
    pub captions: usize,
    /// Masks.
    pub masks: usize,
    /// Reference images, counted for each image that they belong to.
    pub references: usize,
    /// Files left out.
    pub skipped: Vec<PathBuf>,
}

/// Images of one size.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct BucketSummary {
    /// Pixels.
    pub width: usize,
    /// Pixels.
    pub height: usize,
    /// How many images are trained at this size.
    pub images: usize,
}

/// Pixels of the side of a latent.
const PIXELS: usize = 16;

/// Encodes the recipe's images, captions and prompts.
///
/// # Errors
/// Those of reading the model and the data.
pub fn prepare(options: PrepareOptions, control: &Control) -> Result<PrepareSummary> {
    let emit = |event: &Event| {
        control.emit(event);
        Ok(())
    };
    let session = Session::open(&options.recipe, &emit, control)?;
    let parts = || std::iter::once(&session.train).chain(&session.held_out).map(|l| l.prepared());
    let samples = || parts().flat_map(|part| &part.samples);
    // An image at several sizes is several samples.
    let images: BTreeMap<&Path, &Sample> = samples().map(|sample| (sample.path.as_path(), sample)).collect();
    let mut buckets = BTreeMap::new();
    for sample in samples() {
        *buckets.entry([sample.latents.shape[2] * PIXELS, sample.latents.shape[1] * PIXELS]).or_default() += 1;
    }
    let mut buckets: Vec<_> =
        buckets.into_iter().map(|([width, height], images)| BucketSummary { width, height, images }).collect();
    buckets.sort_by_key(|bucket| bucket.width * bucket.height);
    Ok(PrepareSummary {
        cache_dir: options.recipe.data.cache_dir,
        images: images.len(),
        buckets,
        captions: session.captions,
        masks: images.values().filter(|sample| sample.mask.is_some()).count(),
        references: images.values().map(|sample| sample.references.len()).sum(),
        skipped: parts().flat_map(|p| p.skipped.iter().map(|s| s.path.clone())).collect(),
    })
}
