//! The recipe: all of a fine-tuning run, one schema for YAML, JSON and TypeScript.

mod data;
mod explain;
mod forms;
mod paths;
mod prompt;
mod rules;
mod section;
mod sections;

use std::path::Path;

use flowtune_models::Precision;
use serde::{Deserialize, Serialize};

pub use data::{DataRecipe, SourceRecipe};
pub use prompt::PromptRecipe;
pub use section::{
    flow_matching_options, load_options, lora_options, lr_schedule_options, optimizer_options, transformer_config,
};
pub use sections::{
    CaptionDropoutMode, CheckpointRecipe, FlowMatchingRecipe, LoraRecipe, LrScheduleRecipe, LrScheduleType, Mode,
    ModelRecipe, OnBadFile, OptimizerRecipe, OptimizerType, OutputRecipe, TrainRecipe, ValidationRecipe, WeightsDtype,
};

use crate::error::{Error, Result};

/// All of a fine-tuning run. Unknown keys are refused with the nearest known one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Recipe {
    /// The model to start from.
    pub model: ModelRecipe,
    /// Images and captions.
    pub data: DataRecipe,
    /// What is trained.
    #[serde(default)]
    pub mode: Mode,
    /// Low-rank adapters; for [`Mode::Lora`].
    #[serde(default)]
    pub lora: LoraRecipe,
    /// The loss.
    #[serde(default)]
    pub flow_matching: FlowMatchingRecipe,
    /// The optimizer.
    #[serde(default)]
    pub optimizer: OptimizerRecipe,
    /// The learning rate over the run.
    #[serde(default)]
    pub lr_schedule: LrScheduleRecipe,
    /// Steps and batches.
    pub train: TrainRecipe,
    /// When to save.
    #[serde(default)]
    pub checkpoint: CheckpointRecipe,
    /// Evaluation and sample images.
    #[serde(default)]
    pub validation: ValidationRecipe,
    /// Where the run goes.
    #[serde(default)]
    pub output: OutputRecipe,
}

/// Checks a recipe given as JSON, fills in the defaults and makes its paths absolute: relative ones start at `base_dir`.
/// Resolving a resolved recipe changes nothing.
///
/// # Errors
/// `RECIPE_INVALID`, naming the key in backticks and either the nearest known key or the value and what is allowed.
pub fn resolve_recipe(json: &str, base_dir: &Path) -> Result<Recipe> {
    let value: serde_json::Value =
        serde_json::from_str(json).map_err(|e| Error::Recipe(format!("the recipe is not JSON: {e}")))?;
    rules::check(&value)?;
    let mut recipe: Recipe = serde_path_to_error::deserialize(&value).map_err(explain::explain)?;
    rules::check_together(&recipe)?;
    paths::make_absolute(&mut recipe, base_dir)?;
    Ok(recipe)
}

impl Recipe {
    /// JSON of the recipe; [`resolve_recipe`] reads it back.
    ///
    /// # Errors
    /// `INTERNAL` when it cannot be written as JSON.
    pub fn to_json(&self) -> Result<String> {
        serde_json::to_string_pretty(self).map_err(|e| Error::Internal(format!("recipe to JSON: {e}")))
    }

    /// Types that the transformer is loaded in.
    pub fn precision(&self) -> Precision {
        let ModelRecipe { dtype, quantization, .. } = self.model;
        Precision { dtype, quantization, trainable: self.mode == Mode::Full }
    }

    /// Samples of one optimizer step.
    pub fn samples_per_step(&self) -> usize {
        self.train.batch_size * self.train.gradient_accumulation
    }
}

#[cfg(test)]
mod hostile;
#[cfg(test)]
mod tests;
