//! Text encoders and their tokenizers.

mod config;
mod decoder;
mod prompt;
mod template;
mod tokenizer;

pub use config::{TextConfig, TextFamily};
pub use decoder::TextEncoder;
pub use prompt::PromptStyle;
pub use tokenizer::{PromptTokenizer, TokenizedPrompts};

#[cfg(test)]
mod tests;
#[cfg(test)]
mod vocabularies;
