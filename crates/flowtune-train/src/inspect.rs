//! What is at a path: a model folder, a run folder, a LoRA, a safetensors file.

use std::path::Path;

use flowtune_models::lora::LORA_FILE;
use flowtune_models::transformer::Flux2Config;
use flowtune_models::{ModelFolder, Weights};
use serde_json::{Value, json};

use crate::error::{Error, Result};
use crate::event::Event;
use crate::model_source::present_path;
use crate::run_folder::{list_checkpoints, read_events, read_recipe};

/// A JSON description with `kind` and `path`. A hub's model is described as far as it is in the cache.
///
/// # Errors
/// `CHECKPOINT_LAYOUT` when the path is nothing flowtune knows; `HUB_UNAVAILABLE` when it is a hub's and not in the cache.
pub fn inspect(path: &Path) -> Result<Value> {
    let path = &present_path(path)?;
    if path.join("model_index.json").is_file() {
        return model(path);
    }
    if path.join("recipe.yaml").is_file() {
        return run(path);
    }
    let lora = path.join(LORA_FILE);
    let file = if lora.is_file() { lora.as_path() } else { path };
    if !file.exists() {
        return Err(Error::layout(path, "there is nothing here"));
    }
    tensors(file)
}

fn model(path: &Path) -> Result<Value> {
    let folder = ModelFolder::open(path)?;
    let config = folder.transformer_config()?;
    let count = |component: &str| -> Result<Value> {
        let weights = folder.weights(component)?;
        Ok(json!({ "tensors": weights.names().len(), "parameters": parameters(&weights) }))
    };
    Ok(json!({
        "kind": "model",
        "path": path,
        "class": folder.class_name(),
        "distilled": folder.is_distilled(),
        "guidance": config.guidance_embeds,
        "doubleBlocks": config.num_layers,
        "singleBlocks": config.num_single_layers,
        "dim": config.dim(),
        "heads": config.num_attention_heads,
        "jointAttentionDim": config.joint_attention_dim,
        "transformer": count("transformer")?,
        "vae": count("vae")?,
        "textEncoder": count("text_encoder")?,
        "textTokens": folder.tokenizer()?.max_tokens(),
    }))
}

/// A file or folder with a transformer only.
fn transformer(path: &Path, config: &Flux2Config, weights: &Weights) -> Value {
    json!({
        "kind": "transformer",
        "path": path,
        "guidance": config.guidance_embeds,
        "doubleBlocks": config.num_layers,
        "singleBlocks": config.num_single_layers,
        "dim": config.dim(),
        "heads": config.num_attention_heads,
        "jointAttentionDim": config.joint_attention_dim,
        "parameters": parameters(weights),
        "metadata": weights.metadata(),
    })
}

fn parameters(weights: &Weights) -> usize {
    weights.names().iter().filter_map(|n| weights.shape(n)).map(|s| s.iter().product::<usize>()).sum()
}

fn run(path: &Path) -> Result<Value> {
    let recipe = read_recipe(path)?;
    let events = read_events(path)?;
    let last = events.iter().rev().find_map(|e| match e {
        Event::Step { step, loss, .. } => Some(json!({ "step": step, "loss": loss })),
        _ => None,
    });
    let checkpoints: Vec<u64> = list_checkpoints(path)?.iter().map(|c| c.step).collect();
    let finished = events.iter().rev().find(|e| matches!(e, Event::Finished(_)));
    Ok(json!({
        "kind": "run",
        "path": path,
        "model": recipe.model.path,
        "mode": recipe.mode,
        "steps": recipe.train.steps,
        "lastStep": last,
        "checkpoints": checkpoints,
        "finished": finished,
    }))
}

fn tensors(path: &Path) -> Result<Value> {
    let weights = Weights::open(path)?;
    if let Ok(config) = Flux2Config::of(&weights) {
        return Ok(transformer(path, &config, &weights));
    }
    let names = weights.names();
    let is_lora = names.iter().any(|n| n.ends_with("lora_A.weight"));
    let rank = names.iter().find(|n| n.ends_with("lora_A.weight")).and_then(|n| weights.shape(n)).map(|s| s[0]);
    let listed: Vec<Value> = names.iter().map(|n| json!({ "name": n, "shape": weights.shape(n) })).collect();
    Ok(json!({
        "kind": if is_lora { "lora" } else { "safetensors" },
        "path": path,
        "parameters": parameters(&weights),
        "rank": rank,
        "metadata": weights.metadata(),
        "tensors": listed,
    }))
}
