//! Chat templates: Jinja as transformers' `chat_template_utils.py` sets it up.

use std::fs;
use std::path::{Path, PathBuf};

use minijinja::syntax::SyntaxConfig;
use minijinja::value::Serde;
use minijinja::{Environment, Error as TemplateError, ErrorKind, Value};
use minijinja_contrib::pycompat::unknown_method_callback;
use serde_json::Value as Json;

use super::prompt::PromptStyle;
use crate::error::{Error, Result, io_error, layout_error};

const NAME: &str = "chat_template";

/// A compiled chat template.
#[derive(Debug)]
pub(super) struct ChatTemplate {
    environment: Environment<'static>,
    /// `bos_token`, `eos_token`, …, which templates refer to.
    special_tokens: Vec<(String, String)>,
}

impl ChatTemplate {
    /// The template of a tokenizer folder: `chat_template.jinja`, else `chat_template.json`, else the entry of
    /// `tokenizer_config.json`.
    pub(super) fn load(folder: &Path, tokenizer_config: &Json, special_tokens: Vec<(String, String)>) -> Result<Self> {
        let (file, source) = find(folder, tokenizer_config)?;
        let mut environment = Environment::new();
        // Only delimiters can be refused, and these are the usual ones.
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
        environment.set_syntax(syntax.map_err(|e| layout_error(&file, e.to_string()))?);
        environment.set_unknown_method_callback(unknown_method_callback);
        environment.add_function("raise_exception", |message: String| -> Result<Value, TemplateError> {
            Err(TemplateError::new(ErrorKind::InvalidOperation, message))
        });
        // Mistral's templates date their default system message; FLUX.2 gives its own, which has no date.
        environment.add_function("strftime_now", |_format: String| String::new());
        environment
            .add_template_owned(NAME, source)
            .map_err(|e| layout_error(&file, format!("the chat template does not parse ({e}); download it again")))?;
        Ok(Self { environment, special_tokens })
    }

    /// The text that a prompt becomes.
    pub(super) fn render(&self, style: PromptStyle, prompt: &str) -> Result<String> {
        let mut context = style.context(prompt);
        for (name, token) in &self.special_tokens {
            context[name] = Json::String(token.clone());
        }
        let template = self.environment.get_template(NAME);
        template.and_then(|t| t.render(Serde(&context))).map_err(|e| Error::DataUnreadable {
            what: format!("prompt {:?}", prompt.chars().take(40).collect::<String>()),
            problem: format!("the chat template refused it: {e}"),
        })
    }
}

fn find(folder: &Path, tokenizer_config: &Json) -> Result<(PathBuf, String)> {
    let jinja = folder.join("chat_template.jinja");
    if jinja.is_file() {
        let source = fs::read_to_string(&jinja).map_err(io_error(&jinja))?;
        return Ok((jinja, source));
    }
    let json = folder.join("chat_template.json");
    if json.is_file() {
        let parsed: Json = crate::folder::read_json(&json)?;
        return match named(&parsed[NAME]) {
            Some(source) => Ok((json, source)),
            None => Err(layout_error(&json, "has no chat_template; download it again")),
        };
    }
    let config = folder.join("tokenizer_config.json");
    match named(&tokenizer_config[NAME]) {
        Some(source) => Ok((config, source)),
        None => Err(layout_error(folder, "has no chat template: expected chat_template.jinja; download it")),
    }
}

/// A template, or the one called default among several.
fn named(entry: &Json) -> Option<String> {
    let several = || entry.as_array()?.iter().find(|t| t["name"] == "default")?["template"].as_str();
    entry.as_str().or_else(several).map(str::to_owned)
}
