//! Absolute paths.

use std::path::{Component, Path, PathBuf};

use super::Recipe;
use crate::error::{Error, Result};

/// Folder of the cache, beside the run folder.
const CACHE: &str = ".cache";

/// Makes every path of `recipe` absolute against `base_dir` and sets the default of `data.cacheDir`.
pub(super) fn make_absolute(recipe: &mut Recipe, base_dir: &Path) -> Result<()> {
    let base = std::path::absolute(base_dir).map_err(Error::io(base_dir, "made absolute"))?;
    let join = |key: &str, path: &Path| -> Result<PathBuf> {
        if path.as_os_str().is_empty() {
            return Err(Error::Recipe(format!("`{key}` must be a path, got an empty string")));
        }
        Ok(normalize(&base.join(path)))
    };
    recipe.model.path = join("model.path", &recipe.model.path)?;
    if let Some(transformer) = &mut recipe.model.transformer {
        *transformer = join("model.transformer", transformer)?;
    }
    if let Some(from) = &mut recipe.lora.from {
        *from = join("lora.from", from)?;
    }
    recipe.output.dir = join("output.dir", &recipe.output.dir)?;
    if recipe.data.cache_dir.as_os_str().is_empty() {
        recipe.data.cache_dir = recipe.output.dir.parent().unwrap_or(&recipe.output.dir).join(CACHE);
    }
    recipe.data.cache_dir = join("data.cacheDir", &recipe.data.cache_dir)?;
    let sources = [("data.train", &mut recipe.data.train), ("data.heldOut", &mut recipe.data.held_out)];
    for (key, source) in sources.into_iter().flat_map(|(key, list)| list.iter_mut().map(move |source| (key, source))) {
        for path in [&mut source.path].into_iter().chain(&mut source.masks).chain(&mut source.references) {
            *path = join(key, path)?;
        }
    }
    for path in recipe.validation.prompts.iter_mut().flat_map(|prompt| &mut prompt.references) {
        *path = join("validation.prompts", path)?;
    }
    Ok(())
}

/// Folds `.` and `..` away without asking the disk, as Node's `path.resolve` does.
fn normalize(path: &Path) -> PathBuf {
    let mut out = PathBuf::new();
    for component in path.components() {
        match component {
            Component::CurDir => {}
            Component::ParentDir => drop(out.pop()),
            other => out.push(other),
        }
    }
    out
}
