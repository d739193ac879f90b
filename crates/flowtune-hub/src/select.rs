//! Which files of a pipeline in diffusers layout are needed.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;

use crate::cache::is_safe_name;
use crate::error::{Error, Result};

/// The file that makes a repository a pipeline.
pub(crate) const MODEL_INDEX: &str = "model_index.json";

/// What diffusers and transformers call their weights, sharded ones first: a folder that has both was sharded by a later
/// save.
const WEIGHTS: [&str; 2] = ["diffusion_pytorch_model.safetensors", "model.safetensors"];

/// A component of a pipeline.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// What is trained.
    Transformer,
    /// Images to latents and back.
    Vae,
    /// Text to embeddings.
    TextEncoder,
    /// Text to tokens.
    Tokenizer,
    /// Noise levels of sampling.
    Scheduler,
}

impl Part {
    /// A whole pipeline.
    pub const ALL: [Self; 5] = [Self::Transformer, Self::Vae, Self::TextEncoder, Self::Tokenizer, Self::Scheduler];
    /// What makes latents and embeddings.
    pub const ENCODERS: [Self; 3] = [Self::Vae, Self::TextEncoder, Self::Tokenizer];

    /// Its folder.
    pub(crate) fn folder(self) -> &'static str {
        match self {
            Self::Transformer => "transformer",
            Self::Vae => "vae",
            Self::TextEncoder => "text_encoder",
            Self::Tokenizer => "tokenizer",
            Self::Scheduler => "scheduler",
        }
    }

    fn has_weights(self) -> bool {
        matches!(self, Self::Transformer | Self::Vae | Self::TextEncoder)
    }
}

/// The files that say what the weights are: the pipeline's index, the configuration of every component, and all else but
/// weights of the parts that are asked for.
pub(crate) fn descriptions<'a>(names: &'a BTreeSet<String>, parts: &[Part]) -> Vec<&'a str> {
    let wanted = |name: &str| match name.split_once('/') {
        None => name == MODEL_INDEX,
        Some((folder, file)) => {
            let of = |part: &&Part| part.folder() == folder;
            let is_config = file == "config.json" || file == "scheduler_config.json";
            Part::ALL.iter().any(|part| of(&part)) && is_config || parts.iter().any(|part| of(&part)) && is_text(file)
        }
    };
    names.iter().map(String::as_str).filter(|name| wanted(name)).collect()
}

/// Configurations, tokenizers, chat templates, indices of shards.
fn is_text(file: &str) -> bool {
    [".json", ".jinja", ".txt", ".model"].iter().any(|end| file.ends_with(end))
}

/// The weights of a part: what `read` says is in its index of shards, or its one file. `id` is for messages.
pub(crate) fn weights(
    names: &BTreeSet<String>,
    part: Part,
    id: &str,
    read: &dyn Fn(&str) -> Result<Vec<u8>>,
) -> Result<Vec<String>> {
    if !part.has_weights() {
        return Ok(Vec::new());
    }
    let folder = part.folder();
    for name in WEIGHTS.map(|name| format!("{folder}/{name}")) {
        let index = format!("{name}.index.json");
        if names.contains(&index) {
            return shards(&index, folder, id, &read(&index)?);
        }
        if names.contains(&name) {
            return Ok(vec![name]);
        }
    }
    // Under another name there must be one, or nobody knows which is meant.
    let own = |name: &&String| name.strip_prefix(folder).is_some_and(|n| n.starts_with('/') && !n[1..].contains('/'));
    let found: Vec<_> = names.iter().filter(own).filter(|name| name.ends_with(".safetensors")).cloned().collect();
    match found.len() {
        1 => Ok(found),
        0 => Err(Error::NotFound(format!(
            "{id} has no safetensors weights in {folder}/: take another model or revision"
        ))),
        _ => Err(Error::NotFound(format!(
            "{id} has several weights in {folder}/ and no index of them: {}",
            found.join(", ")
        ))),
    }
}

#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

fn shards(index: &str, folder: &str, id: &str, text: &[u8]) -> Result<Vec<String>> {
    let corrupt = |problem: String| Error::Corrupt(format!("{id}: {index} {problem}"));
    let Index { weight_map } =
        serde_json::from_slice(text).map_err(|e| corrupt(format!("is not an index of shards ({e})")))?;
    let files: BTreeSet<&String> = weight_map.values().collect();
    match files.iter().find(|file| !is_safe_name(file)) {
        Some(file) => Err(corrupt(format!("lists {file:?}, which would leave its folder"))),
        None => Ok(files.into_iter().map(|file| format!("{folder}/{file}")).collect()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    fn no_index(_: &str) -> Result<Vec<u8>> {
        panic!("there is no index")
    }

    #[test]
    fn images_single_files_and_other_components_are_left() {
        let names = names(&[
            "README.md",
            "model_index.json",
            "flux-2-klein-base-4b.safetensors",
            "teaser.png",
            "scheduler/scheduler_config.json",
            "text_encoder/config.json",
            "text_encoder/generation_config.json",
            "text_encoder/model-00001-of-00002.safetensors",
            "text_encoder/model.safetensors.index.json",
            "tokenizer/chat_template.jinja",
            "tokenizer/merges.txt",
            "transformer/config.json",
            "transformer/diffusion_pytorch_model.safetensors",
            "safety_checker/config.json",
        ]);
        assert_eq!(
            descriptions(&names, &[]),
            [
                "model_index.json",
                "scheduler/scheduler_config.json",
                "text_encoder/config.json",
                "transformer/config.json"
            ]
        );
        assert_eq!(
            descriptions(&names, &[Part::TextEncoder, Part::Tokenizer]),
            [
                "model_index.json",
                "scheduler/scheduler_config.json",
                "text_encoder/config.json",
                "text_encoder/generation_config.json",
                "text_encoder/model.safetensors.index.json",
                "tokenizer/chat_template.jinja",
                "tokenizer/merges.txt",
                "transformer/config.json",
            ]
        );
    }

    #[test]
    fn an_index_goes_before_a_single_file_and_a_variant_is_left() {
        let index = "transformer/diffusion_pytorch_model.safetensors.index.json";
        let all = names(&[index, "transformer/diffusion_pytorch_model.safetensors", "transformer/a.safetensors"]);
        let read = |name: &str| {
            assert_eq!(name, index);
            Ok(br#"{"weight_map": {"x": "b.safetensors", "y": "a.safetensors", "z": "a.safetensors"}}"#.to_vec())
        };
        let shards = weights(&all, Part::Transformer, "a/b", &read).unwrap();
        assert_eq!(shards, ["transformer/a.safetensors", "transformer/b.safetensors"]);
        let single = "vae/diffusion_pytorch_model.safetensors";
        let all = names(&[single, "vae/diffusion_pytorch_model.fp16.safetensors"]);
        assert_eq!(weights(&all, Part::Vae, "a/b", &no_index).unwrap(), [single]);
        let all = names(&["vae/ema.safetensors", "vae2/x.safetensors"]);
        assert_eq!(weights(&all, Part::Vae, "a/b", &no_index).unwrap(), ["vae/ema.safetensors"]);
        assert!(weights(&all, Part::Tokenizer, "a/b", &no_index).unwrap().is_empty());
        assert_eq!(weights(&all, Part::Transformer, "a/b", &no_index).unwrap_err().code(), "HUB_NOT_FOUND");
    }

    #[test]
    fn an_index_that_leaves_its_folder_is_refused() {
        let all = names(&["vae/model.safetensors.index.json"]);
        for text in [r#"{"weight_map": {"x": "../../x.safetensors"}}"#, r#"{"weight_map": {"x": "/x"}}"#, "[]"] {
            let error = weights(&all, Part::Vae, "a/b", &|_| Ok(text.into())).unwrap_err();
            assert_eq!(error.code(), "HUB_CORRUPT", "{error}");
        }
    }
}
