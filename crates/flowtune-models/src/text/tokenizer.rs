//! Prompts to token ids.

use std::path::Path;
use std::sync::{Mutex, PoisonError};

use flowtune_engine::Tensor;
use serde_json::Value;
use tokenizers::{Tokenizer, TruncationDirection, TruncationParams};

use super::prompt::PromptStyle;
use super::template::ChatTemplate;
use crate::error::{Error, Result, layout_error};
use crate::folder::read_json;

/// Tokens per prompt in FLUX.2's pipelines.
const MAX_TOKENS: usize = 512;

/// Prompts as a text encoder takes them.
#[derive(Debug, Clone)]
pub struct TokenizedPrompts {
    /// Each prompt after the chat template.
    pub texts: Vec<String>,
    /// Token ids, int64 `[batch, tokens]`.
    pub input_ids: Tensor,
    /// 1 for tokens, 0 for padding, int64 `[batch, tokens]`.
    pub attention_mask: Tensor,
    /// Whether a prompt was too long and lost its end.
    pub truncated: Vec<bool>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    Left,
    Right,
}

/// The tokenizer of a model folder with its chat template: `tokenizer.json` as transformers' fast tokenizers
/// write it.
pub struct PromptTokenizer {
    // Truncation is a setting of the tokenizer, not an argument.
    tokenizer: Mutex<Tokenizer>,
    template: ChatTemplate,
    style: PromptStyle,
    bos_token: Option<String>,
    pad_id: i64,
    padding_side: Side,
    truncation_side: Side,
    max_tokens: usize,
}

impl PromptTokenizer {
    /// Reads a `tokenizer/` folder.
    ///
    /// # Errors
    /// `CHECKPOINT_LAYOUT` when a file is absent or damaged or there is no padding token; `IO`.
    pub fn load(folder: impl AsRef<Path>, style: PromptStyle) -> Result<Self> {
        let folder = folder.as_ref();
        let file = folder.join("tokenizer.json");
        if !file.is_file() {
            return Err(layout_error(&file, absent(folder)));
        }
        let mut tokenizer = Tokenizer::from_file(&file)
            .map_err(|e| layout_error(&file, format!("is not a tokenizer ({e}); download it again")))?;
        // Padding is done here: its length is the caller's.
        tokenizer.with_padding(None);
        let config_file = folder.join("tokenizer_config.json");
        let config: Value = read_json(&config_file)?;
        let pad_id =
            special(&config, "pad_token").and_then(|token| tokenizer.token_to_id(&token)).ok_or_else(|| {
                layout_error(&config_file, "names no pad_token that tokenizer.json knows; download both again")
            })?;
        Ok(Self {
            tokenizer: Mutex::new(tokenizer),
            template: ChatTemplate::load(folder, &config, special_tokens(&config))?,
            style,
            bos_token: special(&config, "bos_token"),
            pad_id: i64::from(pad_id),
            padding_side: side(&config, "padding_side").unwrap_or_else(|| padding_side_of_class(&config)),
            truncation_side: side(&config, "truncation_side").unwrap_or(Side::Right),
            max_tokens: max_tokens(&config),
        })
    }

    /// [`PromptTokenizer::max_tokens`] of a `tokenizer/` folder, from its configuration alone.
    ///
    /// # Errors
    /// `CHECKPOINT_LAYOUT` when that is absent or damaged; `IO`.
    pub fn max_tokens_in(folder: impl AsRef<Path>) -> Result<usize> {
        Ok(max_tokens(&read_json(&folder.as_ref().join("tokenizer_config.json"))?))
    }

    /// Tokens per prompt unless the caller asks for another number: 512, or fewer if the model takes fewer.
    pub fn max_tokens(&self) -> usize {
        self.max_tokens
    }

    /// Templates and tokenizes prompts, cut and padded to `tokens` (or [`Self::max_tokens`]).
    ///
    /// # Errors
    /// `DATA_UNREADABLE` when the template or the tokenizer refuses a prompt.
    pub fn encode(&self, prompts: &[&str], tokens: Option<usize>) -> Result<TokenizedPrompts> {
        let tokens = tokens.unwrap_or(self.max_tokens);
        let (mut ids, mut mask) = (Vec::new(), Vec::new());
        let (mut texts, mut truncated) = (Vec::new(), Vec::new());
        for prompt in prompts {
            let text = self.template.render(self.style, prompt)?;
            let (row, cut) = self.ids(&text, tokens)?;
            let padding = tokens.saturating_sub(row.len());
            self.pad(&mut ids, &row, padding, self.pad_id);
            self.pad(&mut mask, &vec![1; row.len()], padding, 0);
            texts.push(text);
            truncated.push(cut);
        }
        let shape = [prompts.len(), tokens];
        let (input_ids, attention_mask) = (Tensor::from_vec(ids, &shape)?, Tensor::from_vec(mask, &shape)?);
        Ok(TokenizedPrompts { texts, input_ids, attention_mask, truncated })
    }

    /// At most `tokens` ids of a text, and whether there were more.
    fn ids(&self, text: &str, tokens: usize) -> Result<(Vec<i64>, bool)> {
        let refused = |e: tokenizers::Error| Error::DataUnreadable {
            what: format!("prompt {:?}", text.chars().take(40).collect::<String>()),
            problem: format!("the tokenizer refused it: {e}"),
        };
        let direction = match self.truncation_side {
            Side::Left => TruncationDirection::Left,
            Side::Right => TruncationDirection::Right,
        };
        let special = self.style.adds_special_tokens(text, self.bos_token.as_deref());
        let mut tokenizer = self.tokenizer.lock().unwrap_or_else(PoisonError::into_inner);
        let mut encode = |truncation: Option<TruncationParams>| -> tokenizers::Result<Vec<i64>> {
            tokenizer.with_truncation(truncation)?;
            let encoding = tokenizer.encode_fast(text, special)?;
            Ok(encoding.get_ids().iter().map(|&id| i64::from(id)).collect())
        };
        let whole = encode(None).map_err(refused)?;
        if whole.len() <= tokens {
            return Ok((whole, false));
        }
        // The library keeps the special tokens when it cuts.
        let truncation = TruncationParams { direction, max_length: tokens, ..TruncationParams::default() };
        Ok((encode(Some(truncation)).map_err(refused)?, true))
    }

    fn pad(&self, out: &mut Vec<i64>, row: &[i64], padding: usize, value: i64) {
        let padding = std::iter::repeat_n(value, padding);
        match self.padding_side {
            Side::Left => out.extend(padding.chain(row.iter().copied())),
            Side::Right => out.extend(row.iter().copied().chain(padding)),
        }
    }
}

/// transformers writes 1e30 where there is no limit; the conversion saturates.
fn max_tokens(config: &Value) -> usize {
    MAX_TOKENS.min(config["model_max_length"].as_f64().unwrap_or(f64::INFINITY) as usize)
}

/// What to do about a folder without `tokenizer.json`.
fn absent(folder: &Path) -> String {
    let others = ["tekken.json", "vocab.json", "tokenizer.model", "qwen.tiktoken"];
    match others.iter().find(|name| folder.join(name).is_file()) {
        Some(other) => format!(
            "is missing, and {other} alone does not say how text is cut into tokens; take tokenizer.json from the tokenizer \
             folder of the FLUX.2 model"
        ),
        None => "is missing; download the tokenizer folder again".to_owned(),
    }
}

/// A side, if the configuration names one.
fn side(config: &Value, key: &str) -> Option<Side> {
    match config[key].as_str()? {
        "left" => Some(Side::Left),
        _ => Some(Side::Right),
    }
}

/// Where transformers' class pads when its configuration does not say. FLUX.2 dev's tokenizer is called a Llama's, and
/// these alone pad on the left; transformers 5 loads it as another class, and so on the right, which the model was not
/// published with.
fn padding_side_of_class(config: &Value) -> Side {
    let class = config["tokenizer_class"].as_str().unwrap_or_default();
    if class.starts_with("LlamaTokenizer") { Side::Left } else { Side::Right }
}

/// A special token: a string, or an object with its content.
fn special(config: &Value, key: &str) -> Option<String> {
    let token = &config[key];
    token.as_str().or_else(|| token["content"].as_str()).map(str::to_owned)
}

fn special_tokens(config: &Value) -> Vec<(String, String)> {
    let keys = config.as_object().into_iter().flat_map(|entries| entries.keys());
    let named = keys.filter(|key| key.ends_with("_token"));
    named.filter_map(|key| Some((key.clone(), special(config, key)?))).collect()
}
