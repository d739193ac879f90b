//! Sections of a recipe on their own: options of the objects that training scripts are made of. Rules, defaults and
//! messages are the recipe's.

use flowtune_flow::FlowMatchingOptions;
use flowtune_models::Precision;
use flowtune_models::lora::LoraConfig;
use flowtune_models::transformer::Flux2Config;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::explain::{advice, explain};
use super::rules::{check, check_quantization, check_sigma_range};
use super::{LoraRecipe, LrScheduleRecipe, OptimizerRecipe};
use crate::error::{Error, Result};

/// Options of the flow-matching step from JSON: keys of a recipe's `flowMatching` and `cfgDropoutProb`, defaults of NeMo
/// Automodel.
///
/// # Errors
/// `RECIPE_INVALID`, naming the key in backticks, and the nearest known key or what is allowed.
pub fn flow_matching_options(json: &str) -> Result<FlowMatchingOptions> {
    let options: FlowMatchingOptions = section("flowMatching", json)?;
    if !(0.0..=1.0).contains(&options.cfg_dropout_prob) {
        let got = options.cfg_dropout_prob;
        return Err(Error::Recipe(format!("`cfgDropoutProb` must be at least 0 and at most 1, got {got}")));
    }
    check_sigma_range("", options.sigma_min, options.sigma_max)?;
    Ok(options)
}

/// Options of low-rank adapters from JSON: keys and defaults of a recipe's `lora`.
///
/// # Errors
/// As [`flow_matching_options`].
pub fn lora_options(json: &str) -> Result<LoraConfig> {
    let LoraRecipe { rank, alpha, targets, from } = section("lora", json)?;
    if from.is_some() {
        return Err(Error::Recipe("`from` is a recipe's; a script calls loadLora".to_owned()));
    }
    Ok(LoraConfig { rank, alpha, targets: targets.unwrap_or_else(|| LoraConfig::default().targets) })
}

/// Options of the optimizer from JSON: keys and defaults of a recipe's `optimizer`.
///
/// # Errors
/// As [`flow_matching_options`].
pub fn optimizer_options(json: &str) -> Result<OptimizerRecipe> {
    section("optimizer", json)
}

/// Options of the learning-rate schedule from JSON: keys and defaults of a recipe's `lrSchedule`.
///
/// # Errors
/// As [`flow_matching_options`].
pub fn lr_schedule_options(json: &str) -> Result<LrScheduleRecipe> {
    section("lrSchedule", json)
}

/// In what types a transformer is loaded, from JSON: `dtype`, `quantization`, `trainable`.
///
/// # Errors
/// As [`flow_matching_options`].
pub fn load_options(json: &str) -> Result<Precision> {
    let precision: Precision = serde_path_to_error::deserialize(&object(json)?).map_err(explain)?;
    check_quantization(precision, "`trainable` is true")?;
    Ok(precision)
}

/// Geometry of a transformer from JSON with the keys of diffusers' `config.json`. Keys that diffusers writes for itself
/// (`_class_name`, `patch_size`) are passed over; any other unknown key is refused, for its absence means FLUX.2 dev's.
///
/// # Errors
/// As [`flow_matching_options`].
pub fn transformer_config(json: &str) -> Result<Flux2Config> {
    let value = object(json)?;
    let known: Vec<String> = keys(&json!(Flux2Config::default()));
    let of_diffusers = |key: &String| key.starts_with('_') || key == "patch_size";
    if let Some(key) = keys(&value).into_iter().find(|key| !known.contains(key) && !of_diffusers(key)) {
        let advice = advice(&key, &known, str::to_owned);
        return Err(Error::Recipe(format!("`{key}` is not a key of a transformer's config; {advice}")));
    }
    serde_path_to_error::deserialize(&value).map_err(explain)
}

fn keys(value: &Value) -> Vec<String> {
    value.as_object().into_iter().flat_map(|object| object.keys().cloned()).collect()
}

fn object(json: &str) -> Result<Value> {
    let value: Value =
        serde_json::from_str(json).map_err(|e| Error::Recipe(format!("the options are not JSON: {e}")))?;
    if !value.is_object() {
        return Err(Error::Recipe(format!("the options must be an object with keys, got {value}")));
    }
    Ok(value)
}

fn section<T: DeserializeOwned>(name: &str, json: &str) -> Result<T> {
    let value = object(json)?;
    // The rules know keys by their whole path, the user only what was handed over.
    check(&json!({ name: &value })).map_err(|error| match error {
        Error::Recipe(message) => Error::Recipe(message.replacen(&format!("`{name}."), "`", 1)),
        other => other,
    })?;
    serde_path_to_error::deserialize(&value).map_err(explain)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(error: Error) -> String {
        assert_eq!(error.code(), "RECIPE_INVALID");
        error.to_string()
    }

    #[test]
    fn defaults_are_automodels_and_values_are_taken() {
        assert_eq!(flow_matching_options("{}").unwrap(), FlowMatchingOptions::default());
        let options = flow_matching_options(r#"{"flowShift": "sqrt", "betaAlpha": 2, "cfgDropoutProb": 0}"#).unwrap();
        assert_eq!((options.flow_shift, options.beta_alpha), (flowtune_flow::shift::FlowShift::Sqrt, 2.0));
        assert_eq!(lora_options(r#"{"rank": 4}"#).unwrap().rank, 4);
        assert_eq!(optimizer_options("{}").unwrap(), OptimizerRecipe::default());
        assert_eq!(lr_schedule_options("{}").unwrap(), LrScheduleRecipe::default());
    }

    #[test]
    fn a_transformers_config_takes_diffusers_keys_and_no_others() {
        let json = r#"{"_class_name": "Flux2Transformer2DModel", "patch_size": 1, "num_layers": 2}"#;
        assert_eq!(transformer_config(json).unwrap().num_layers, 2);
        for (json, words) in [
            (r#"{"num_layer": 1}"#, "`num_layer` is not a key of a transformer's config; did you mean `num_layers`?"),
            (r#"{"num_layers": "two"}"#, "`num_layers` must be"),
        ] {
            let message = message(transformer_config(json).unwrap_err());
            assert!(message.contains(words), "{message}");
        }
    }

    #[test]
    fn errors_name_the_key_as_it_was_given() {
        for (json, words) in [
            (r#"{"timestepSampling": "logitnormal"}"#, "`timestepSampling` must be one of"),
            (r#"{"timestepSamplin": "mode"}"#, "did you mean `timestepSampling`?"),
            (r#"{"logitStd": 0}"#, "`logitStd` must be above 0, got 0"),
            (r#"{"betaAlpha": -1}"#, "`betaAlpha` must be above 0, got -1"),
            (r#"{"cfgDropoutProb": 2}"#, "`cfgDropoutProb` must be"),
            (r#"{"sigmaMin": 0.5, "sigmaMax": 0.4}"#, "`sigmaMin` must be below `sigmaMax` (0.4), got 0.5"),
            (r#"{"flowShift": "dynamc"}"#, "`flowShift` must be"),
        ] {
            let message = message(flow_matching_options(json).unwrap_err());
            assert!(message.contains(words), "{message}");
        }
        for json in ["[]", r#"["mode", 0, -1]"#, "null", "3"] {
            let message = message(flow_matching_options(json).unwrap_err());
            assert!(message.starts_with("the options must be an object with keys, got "), "{message}");
        }
        assert!(message(lora_options(r#"{"rank": 0}"#).unwrap_err()).starts_with("`rank` must be"));
        assert!(message(optimizer_options(r#"{"lr": "fast"}"#).unwrap_err()).starts_with("`lr` must be"));
    }
}
