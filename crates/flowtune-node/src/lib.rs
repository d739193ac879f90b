//! The Node binding: the only crate that knows Node. Each function converts its arguments, calls the Rust crates and
//! converts the result back. Small values cross as JSON strings, tensors as handles.
//!
//! What JavaScript sees is declared by hand in `src/native.ts`.

mod data;
mod encoders;
mod error;
mod executor;
mod flow_matching;
mod flux2_adapter;
mod job;
mod job_channel;
mod job_state;
mod optimizer;
mod parameter;
mod progress;
mod tensor;
mod tensor_ops;
mod transformer;

use std::path::Path;

use napi::Env;
use napi::bindgen_prelude::Object;
use napi_derive::napi;

use crate::error::{Result, guarded};
use crate::executor::promise;

#[global_allocator]
static ALLOCATOR: flowtune_engine::TensorAllocator = flowtune_engine::TensorAllocator;

/// Version of the Rust core.
#[napi]
pub fn version() -> &'static str {
    env!("CARGO_PKG_VERSION")
}

/// JSON about the device that this build computes on.
#[napi]
pub fn device() -> Result<String> {
    guarded(|| error::to_json(&flowtune_train::device()?))
}

/// JSON about how a hub would be used.
#[napi]
pub fn hub_settings() -> Result<String> {
    guarded(|| error::to_json(&flowtune_train::hub_settings()?))
}

/// Gives the engine `count` threads, before its first operation.
#[napi]
pub fn set_num_threads(count: u32) -> Result<()> {
    guarded(|| Ok(flowtune_engine::set_num_threads(count as usize)?))
}

/// A recipe (JSON), checked, with its defaults filled in and its paths made absolute from `base_dir`.
#[napi]
pub fn resolve_recipe(recipe_json: String, base_dir: String) -> Result<String> {
    guarded(|| {
        let recipe = flowtune_train::resolve_recipe(&recipe_json, Path::new(&base_dir))?;
        error::to_json(&recipe)
    })
}

/// JSON about a model folder, a safetensors file, a LoRA or a run folder.
#[napi]
pub fn inspect(path: String) -> Result<String> {
    guarded(|| {
        let found = flowtune_train::inspect(Path::new(&path))?;
        error::to_json(&found)
    })
}

/// A recipe in numbers.
#[napi(object, object_from_js = false)]
pub struct ExplainedRecipe {
    /// JSON.
    pub explanation_json: String,
    /// Picture of the noise levels.
    pub svg: String,
}

/// A promise of what a recipe (JSON) means in numbers. Reads no weights.
#[napi(ts_return_type = "Promise<ExplainedRecipe>")]
pub fn explain<'env>(env: &'env Env, recipe_json: String, base_dir: String) -> napi::Result<Object<'env>> {
    promise(env, move || {
        let recipe = flowtune_train::resolve_recipe(&recipe_json, Path::new(&base_dir))?;
        let explanation = flowtune_train::explain(&recipe)?;
        let svg = flowtune_train::draw_explanation(&explanation)?;
        Ok(ExplainedRecipe { explanation_json: error::to_json(&explanation)?, svg })
    })
}

/// A promise of what a run of a recipe (JSON) takes, as JSON. `options_json` is `PlanOptions`. Reads no weights.
#[napi(ts_return_type = "Promise<string>")]
pub fn plan<'env>(
    env: &'env Env,
    recipe_json: String,
    base_dir: String,
    options_json: String,
) -> napi::Result<Object<'env>> {
    promise(env, move || {
        let recipe = flowtune_train::resolve_recipe(&recipe_json, Path::new(&base_dir))?;
        let options = serde_json::from_str(&options_json)
            .map_err(|error| error::Failure::new("INVALID_ARGUMENT", format!("options: {error}")))?;
        error::to_json(&flowtune_train::plan(&recipe, options)?)
    })
}
