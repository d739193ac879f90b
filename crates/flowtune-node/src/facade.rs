//! Stands in for what `flowtune_train` does not have yet: the same names, each ending in an error.

use std::path::{Path, PathBuf};

use flowtune_train::{Control, Error, Recipe, Result};
use serde::{Deserialize, Serialize};

/// What `train` is asked for.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TrainOptions {
    pub recipe: Recipe,
    /// A run folder to continue from its last checkpoint.
    pub resume: Option<PathBuf>,
}

/// What `prepare` is asked for.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PrepareOptions {
    pub recipe: Recipe,
}

/// What `sample` is asked for.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SampleOptions {
    pub model: PathBuf,
}

/// What `evaluate` is asked for: one of the two.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EvaluateOptions {
    pub recipe: Option<Recipe>,
    pub run_dir: Option<PathBuf>,
}

/// What `verify` is asked for.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct VerifyOptions {
    pub paths: Vec<PathBuf>,
}

/// A summary.
#[derive(Serialize)]
pub struct Nothing;

fn absent<O>(_: O, control: &Control) -> Result<Nothing> {
    if control.is_cancelled() {
        return Err(Error::Cancelled { checkpoint: None });
    }
    Err(Error::InvalidArgument("this build cannot do that".into()))
}

pub fn inspect(path: &Path) -> Result<Nothing> {
    absent(path, &Control::default())
}

pub fn train(options: TrainOptions, control: &Control) -> Result<Nothing> {
    absent((options.recipe, options.resume), control)
}

pub fn prepare(options: PrepareOptions, control: &Control) -> Result<Nothing> {
    absent(options.recipe, control)
}

pub fn sample(options: SampleOptions, control: &Control) -> Result<Nothing> {
    absent(options.model, control)
}

pub fn evaluate(options: EvaluateOptions, control: &Control) -> Result<Nothing> {
    absent((options.recipe, options.run_dir), control)
}

pub fn verify(options: VerifyOptions, control: &Control) -> Result<Nothing> {
    absent(options.paths, control)
}
