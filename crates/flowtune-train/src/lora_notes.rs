//! What a LoRA's file says of itself in its header, in the keys that the community's tools read.
//!
//! Keys and architecture names: Stability AI's ModelSpec (`modelspec.*`) and kohya's sd-scripts (`ss_*`), as
//! musubi-tuner writes them for FLUX.2.

use std::collections::HashMap;

use flowtune_models::transformer::Flux2Config;
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::error::Result;
use crate::recipe::Recipe;

/// Notes on a LoRA that `recipe` trained on a model of this geometry.
pub(crate) fn lora_notes(recipe: &Recipe, config: &Flux2Config) -> Result<HashMap<String, String>> {
    let last = |path: &std::path::Path| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let side = recipe.data.largest_resolution();
    // A LoRA that went on from another has that one's rank, whatever the recipe says.
    let own = recipe.lora.from.is_none();
    let notes = [
        ("modelspec.sai_model_spec", Some("1.0.0".to_owned())),
        ("modelspec.architecture", Some(format!("{}/lora", architecture(config)))),
        ("modelspec.implementation", Some("https://github.com/black-forest-labs/flux2".to_owned())),
        ("modelspec.resolution", Some(format!("{side}x{side}"))),
        ("modelspec.trigger_phrase", recipe.data.trigger_word.clone()),
        ("ss_sd_model_name", Some(last(&recipe.model.path))),
        ("ss_network_dim", own.then(|| recipe.lora.rank.to_string())),
        ("ss_network_alpha", own.then(|| recipe.lora.alpha.to_string())),
        ("ss_steps", Some(recipe.train.steps.to_string())),
        ("flowtune_version", Some(env!("CARGO_PKG_VERSION").to_owned())),
        ("flowtune_recipe_sha256", Some(recipe_hash(recipe)?)),
    ];
    Ok(notes.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?))).collect())
}

fn architecture(config: &Flux2Config) -> &'static str {
    match (config.dim(), config.guidance_embeds) {
        (6144, true) => "Flux.2-dev",
        (4096, false) => "Flux.2-klein-9b",
        (3072, false) => "Flux.2-klein-4b",
        _ => "Flux.2",
    }
}

/// Hash of what was done, not of where: paths count by their last part, and where the run went does not count.
fn recipe_hash(recipe: &Recipe) -> Result<String> {
    let mut value: Value =
        serde_json::from_str(&recipe.to_json()?).map_err(|e| crate::error::Error::Internal(e.to_string()))?;
    value["output"] = Value::Null;
    value["data"]["cacheDir"] = Value::Null;
    cut_paths(&mut value);
    let digest = Sha256::digest(value.to_string());
    Ok(digest.iter().map(|byte| format!("{byte:02x}")).collect())
}

fn cut_paths(value: &mut Value) {
    match value {
        Value::String(text) if std::path::Path::new(text.as_str()).is_absolute() => {
            *text = text.rsplit(['/', '\\']).next().unwrap_or_default().to_owned();
        }
        Value::Array(list) => list.iter_mut().for_each(cut_paths),
        Value::Object(object) => object.values_mut().for_each(cut_paths),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::recipe::resolve_recipe;

    fn notes(base: &str, steps: u32) -> HashMap<String, String> {
        let recipe = format!(
            r#"{{"model": {{"path": "klein"}}, "data": {{"train": "images", "triggerWord": "ohwx"}}, "train": {{"steps": {steps}}}}}"#
        );
        lora_notes(&resolve_recipe(&recipe, Path::new(base)).unwrap(), &Flux2Config::default()).unwrap()
    }

    #[test]
    fn notes_say_what_was_done_and_not_where() {
        let here = notes("/here", 3);
        assert_eq!(here["modelspec.architecture"], "Flux.2-dev/lora");
        assert_eq!((&here["modelspec.trigger_phrase"][..], &here["ss_sd_model_name"][..]), ("ohwx", "klein"));
        assert_eq!(here, notes("/there/and/back", 3));
        assert_ne!(here["flowtune_recipe_sha256"], notes("/here", 4)["flowtune_recipe_sha256"]);
    }
}
