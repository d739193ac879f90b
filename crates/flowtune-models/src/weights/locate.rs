//! Which files make up a checkpoint.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Component, Path, PathBuf};

use serde::Deserialize;

use crate::error::{Error, Result, io_error, layout_error};

/// What diffusers and transformers call their weights, sharded ones first: a folder that has both was sharded
/// by a later save.
const NAMES: [&str; 4] = [
    "diffusion_pytorch_model.safetensors.index.json",
    "diffusion_pytorch_model.safetensors",
    "model.safetensors.index.json",
    "model.safetensors",
];

/// The safetensors or index file that `path` means.
pub(super) fn checkpoint(path: &Path) -> Result<PathBuf> {
    if path.is_file() {
        return Ok(path.to_path_buf());
    }
    if let Some(found) = NAMES.iter().map(|name| path.join(name)).find(|file| file.is_file()) {
        return Ok(found);
    }
    let entries = fs::read_dir(path).map_err(io_error(path))?;
    let mut files: Vec<PathBuf> = entries.filter_map(|e| Some(e.ok()?.path())).filter(|f| is_weights(f)).collect();
    match (files.pop(), files.is_empty()) {
        (Some(only), true) => Ok(only),
        (None, _) => Err(layout_error(path, format!("has no weights: expected one of {}", NAMES.join(", ")))),
        (Some(_), false) => Err(layout_error(
            path,
            format!("has several safetensors files; name the one to use, or call it {}", NAMES[1]),
        )),
    }
}

fn is_weights(file: &Path) -> bool {
    file.is_file() && file.extension().is_some_and(|e| e == "safetensors")
}

#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

/// The safetensors files of a checkpoint, each once, and which tensors its index (if any) expects in which.
pub(super) fn shards(origin: &Path) -> Result<(Vec<PathBuf>, BTreeMap<String, PathBuf>)> {
    if origin.extension().is_none_or(|e| e != "json") {
        return Ok((vec![origin.to_path_buf()], BTreeMap::new()));
    }
    let text = fs::read(origin).map_err(io_error(origin))?;
    let index: Index = serde_json::from_slice(&text)
        .map_err(|e| layout_error(origin, format!("is not an index of shards ({e}); download it again")))?;
    let folder = origin.parent().unwrap_or(Path::new(""));
    let mut expected = BTreeMap::new();
    for (tensor, file) in index.weight_map {
        // A shard outside the folder is a mistake or an attack.
        if !Path::new(&file).components().all(|c| matches!(c, Component::Normal(_))) {
            return Err(layout_error(origin, format!("lists {file}, which is not in its folder")));
        }
        expected.insert(tensor, folder.join(file));
    }
    let mut files: Vec<PathBuf> = expected.values().cloned().collect();
    files.sort();
    files.dedup();
    if let Some(absent) = files.iter().find(|f| !f.is_file()) {
        return Err(absent_shard(absent, origin));
    }
    Ok((files, expected))
}

fn absent_shard(shard: &Path, index: &Path) -> Error {
    layout_error(shard, format!("is missing, but {} lists it; download it", index.display()))
}
