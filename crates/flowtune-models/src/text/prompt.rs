//! How FLUX.2's pipelines address their text encoders.

use serde_json::{Value, json};

use super::config::TextFamily;

/// The system message of FLUX.2 dev: diffusers `system_messages.py`, with its line break, which is a token of its own.
const DEV_SYSTEM_MESSAGE: &str = "You are an AI that reasons about image descriptions. You give structured responses \
    focusing on object relationships, object\nattribution and actions without speculation.";

/// The conversation that a prompt is put into.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PromptStyle {
    /// A user turn and the start of an answer without thinking: diffusers `pipeline_flux2_klein.py`.
    Klein,
    /// A system message and a user turn, `[IMG]` removed from the prompt: diffusers `pipeline_flux2.py`.
    Dev,
}

impl PromptStyle {
    /// The style that goes with a text encoder.
    pub fn of(family: TextFamily) -> Self {
        match family {
            TextFamily::Qwen3 => Self::Klein,
            TextFamily::Mistral => Self::Dev,
        }
    }

    /// What the chat template is rendered with.
    pub(super) fn context(self, prompt: &str) -> Value {
        let text = |text: &str| json!([{ "type": "text", "text": text }]);
        match self {
            Self::Klein => json!({
                "messages": [{ "role": "user", "content": prompt }],
                "add_generation_prompt": true,
                "enable_thinking": false,
                "tools": null,
                "documents": null,
            }),
            Self::Dev => json!({
                "messages": [
                    { "role": "system", "content": text(DEV_SYSTEM_MESSAGE) },
                    { "role": "user", "content": text(&prompt.replace("[IMG]", "")) },
                ],
                "add_generation_prompt": false,
                "tools": null,
                "documents": null,
            }),
        }
    }

    /// Whether the tokenizer adds its special tokens around the templated text. Processors (dev) leave them out
    /// when the template has already written the first one.
    pub(super) fn adds_special_tokens(self, text: &str, bos_token: Option<&str>) -> bool {
        self == Self::Klein || !bos_token.is_some_and(|bos| text.starts_with(bos))
    }
}
