//! Filling the cache without training.

use std::path::PathBuf;

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
    /// Distinct captions.
    pub captions: usize,
    /// Files left out.
    pub skipped: Vec<PathBuf>,
}

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
    Ok(PrepareSummary {
        cache_dir: options.recipe.data.cache_dir,
        images: parts().map(|p| p.samples.len()).sum(),
        captions: parts().map(|p| p.captions).sum(),
        skipped: parts().flat_map(|p| p.skipped.iter().map(|s| s.path.clone())).collect(),
    })
}
