//! Configuration of the text encoders.

use std::path::Path;

use serde::Deserialize;
use serde_json::Value;

use crate::error::{Result, layout_error};

/// Families of decoders that FLUX.2 takes text from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TextFamily {
    /// klein: transformers `modeling_qwen3.py`, which normalises queries and keys per head.
    Qwen3,
    /// dev: the language model of `modeling_mistral3.py`, i.e. `modeling_mistral.py`.
    Mistral,
}

impl TextFamily {
    /// The hidden states that FLUX.2 stacks; 0 would be the token embedding.
    pub fn flux2_layers(self) -> [usize; 3] {
        match self {
            Self::Qwen3 => [9, 18, 27],
            Self::Mistral => [10, 20, 30],
        }
    }
}

/// What `text_encoder/config.json` says, as far as it matters.
#[derive(Debug, Clone, PartialEq)]
pub struct TextConfig {
    /// Which decoder.
    pub family: TextFamily,
    /// Rows of the token embedding.
    pub vocab_size: usize,
    /// Channels of a hidden state.
    pub hidden_size: usize,
    /// Channels inside the feed-forward layers.
    pub intermediate_size: usize,
    /// Layers.
    pub num_hidden_layers: usize,
    /// Query heads.
    pub num_attention_heads: usize,
    /// Key and value heads.
    pub num_key_value_heads: usize,
    /// Channels of a head.
    pub head_dim: usize,
    /// Added to the mean square in every norm.
    pub rms_norm_eps: f64,
    /// Base of the rotary frequencies.
    pub rope_theta: f64,
    /// Tokens that attention looks back on; none when it looks at all.
    pub sliding_window: Option<usize>,
}

/// The file's own layout, with transformers' defaults.
#[derive(Deserialize)]
struct Raw {
    model_type: Option<String>,
    vocab_size: usize,
    hidden_size: usize,
    intermediate_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    num_key_value_heads: Option<usize>,
    head_dim: Option<usize>,
    rms_norm_eps: Option<f64>,
    rope_theta: Option<f64>,
    rope_parameters: Option<Rope>,
    rope_scaling: Option<Rope>,
    hidden_act: Option<String>,
    attention_bias: Option<bool>,
    sliding_window: Option<usize>,
    use_sliding_window: Option<bool>,
}

#[derive(Deserialize)]
struct Rope {
    rope_theta: Option<f64>,
    #[serde(alias = "type")]
    rope_type: Option<String>,
}

impl TextConfig {
    /// From the JSON of `config.json`; `file` is for messages. Mistral3's language model lies under
    /// `text_config`.
    ///
    /// # Errors
    /// `CHECKPOINT_LAYOUT` for other models than Qwen3 and Mistral, for options that they do not use, and for weights that
    /// transformers has quantised.
    pub fn from_json(json: &Value, file: &Path) -> Result<Self> {
        if let Some(method) = json["quantization_config"]["quant_method"].as_str() {
            let problem = format!("describes weights quantised by {method}; take the text encoder in bfloat16");
            return Err(layout_error(file, problem));
        }
        let text = json.get("text_config").unwrap_or(json);
        let raw = Raw::deserialize(text)
            .map_err(|e| layout_error(file, format!("is not a text encoder's configuration ({e})")))?;
        raw.check().map_err(|problem| layout_error(file, problem))
    }
}

impl Raw {
    fn check(self) -> Result<TextConfig, String> {
        let family = match self.model_type.as_deref() {
            Some("qwen3") => TextFamily::Qwen3,
            Some("mistral" | "mistral3") => TextFamily::Mistral,
            other => return Err(format!("model_type is {other:?}; FLUX.2 takes qwen3 (klein) or mistral3 (dev)")),
        };
        let ropes = [&self.rope_parameters, &self.rope_scaling];
        let mut kinds = ropes.iter().filter_map(|r| r.as_ref()?.rope_type.as_deref());
        if let Some(kind) = kinds.find(|&kind| kind != "default") {
            return Err(format!("rope type {kind:?} is not supported, only \"default\""));
        }
        if let Some(act) = self.hidden_act.filter(|act| act != "silu") {
            return Err(format!("hidden_act {act:?} is not supported, only \"silu\""));
        }
        if self.attention_bias == Some(true) {
            return Err("attention_bias is not supported".to_owned());
        }
        let heads = self.num_attention_heads;
        let kv_heads = self.num_key_value_heads.unwrap_or(heads);
        if kv_heads == 0 || !heads.is_multiple_of(kv_heads) {
            return Err(format!("num_key_value_heads ({kv_heads}) must divide num_attention_heads ({heads})"));
        }
        let theta = |rope: &Option<Rope>| rope.as_ref().and_then(|r| r.rope_theta);
        let windowed = family == TextFamily::Mistral || self.use_sliding_window == Some(true);
        Ok(TextConfig {
            family,
            vocab_size: self.vocab_size,
            hidden_size: self.hidden_size,
            intermediate_size: self.intermediate_size,
            num_hidden_layers: self.num_hidden_layers,
            num_attention_heads: heads,
            num_key_value_heads: kv_heads,
            head_dim: self.head_dim.unwrap_or(self.hidden_size / heads),
            rms_norm_eps: self.rms_norm_eps.unwrap_or(1e-6),
            rope_theta: theta(&self.rope_parameters).or(self.rope_theta).unwrap_or(10_000.0),
            sliding_window: self.sliding_window.filter(|_| windowed),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::{TextConfig, TextFamily};
    use serde_json::{Value, json};
    use std::path::Path;

    fn config(changes: Value) -> crate::Result<TextConfig> {
        let mut config = json!({
            "model_type": "qwen3", "vocab_size": 9, "hidden_size": 8, "intermediate_size": 7,
            "num_hidden_layers": 3, "num_attention_heads": 4,
        });
        for (key, value) in changes.as_object().unwrap() {
            config[key] = value.clone();
        }
        TextConfig::from_json(&config, Path::new("text_encoder/config.json"))
    }

    #[test]
    fn defaults_and_both_places_of_theta() {
        let c = config(json!({})).unwrap();
        assert_eq!((c.num_key_value_heads, c.head_dim, c.rope_theta), (4, 2, 1e4));
        assert_eq!(config(json!({"rope_theta": 1e6})).unwrap().rope_theta, 1e6);
        let nested = json!({"rope_parameters": {"rope_theta": 5.0, "rope_type": "default"}});
        assert_eq!(config(nested).unwrap().rope_theta, 5.0);
        assert_eq!(config(json!({"rope_theta": 1e6, "rope_parameters": null})).unwrap().rope_theta, 1e6);
    }

    #[test]
    fn mistral3_keeps_its_language_model_in_text_config() {
        let inner = json!({
            "model_type": "mistral", "vocab_size": 9, "hidden_size": 8, "intermediate_size": 7, "head_dim": 6,
            "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2, "sliding_window": null,
        });
        let c = config(json!({"model_type": "mistral3", "text_config": inner})).unwrap();
        assert_eq!((c.family, c.head_dim, c.num_key_value_heads), (TextFamily::Mistral, 6, 2));
    }

    #[test]
    fn what_is_not_supported_is_named() {
        for (changes, culprit) in [
            (json!({"model_type": "llama"}), "llama"),
            (json!({"rope_scaling": {"type": "yarn"}}), "yarn"),
            (json!({"attention_bias": true}), "attention_bias"),
            (json!({"hidden_act": "gelu"}), "gelu"),
            (json!({"num_key_value_heads": 3}), "num_key_value_heads"),
            (json!({"vocab_size": "many"}), "vocab_size"),
            (json!({"quantization_config": {"quant_method": "bitsandbytes"}}), "bitsandbytes"),
        ] {
            let error = config(changes).unwrap_err();
            assert_eq!(error.code(), "CHECKPOINT_LAYOUT");
            assert!(error.to_string().contains(culprit) || culprit == "vocab_size", "{error}");
            assert!(error.to_string().contains("text_encoder/config.json"), "{error}");
        }
    }
}
