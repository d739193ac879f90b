//! Absolute paths.

use std::path::{Component, Path, PathBuf};

use flowtune_hub::{HubModel, Reference};

use super::{ModelRecipe, Recipe};
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
    make_model_absolute(&mut recipe.model, &base, &join)?;
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

/// As the other paths; but what is not there and is a hub's id stays one.
fn make_model_absolute(
    model: &mut ModelRecipe,
    base: &Path,
    join: &dyn Fn(&str, &Path) -> Result<PathBuf>,
) -> Result<()> {
    let refused = |key: &'static str| move |error: flowtune_hub::Error| Error::Recipe(format!("`{key}`: {error}"));
    let path = join("model.path", &model.path)?;
    match Reference::to_model(&model.path, base).map_err(refused("model.path"))? {
        Reference::Hub(HubModel { revision: Some(_), .. }) if model.revision.is_some() => {
            let message = "`model.revision` is said twice, the other time behind the `@` of `model.path`; remove one";
            return Err(Error::Recipe(message.to_owned()));
        }
        Reference::Hub(hub) => {
            let revision = model.revision.take().or_else(|| hub.revision.clone());
            let HubModel { id, revision } = hub.at(revision).map_err(refused("model.revision"))?;
            (model.path, model.revision) = (id.into(), revision);
        }
        Reference::Path(_) if model.revision.is_some() => {
            return Err(Error::Recipe(format!(
                "`model.revision` is for a model of a hub, and `model.path` is the path {}; remove one",
                path.display()
            )));
        }
        Reference::Path(_) => model.path = path,
    }
    if let Some(given) = &mut model.transformer {
        let path = join("model.transformer", given)?;
        *given = match Reference::to_file(given, base).map_err(refused("model.transformer"))? {
            Reference::Hub(file) => file.reference().into(),
            Reference::Path(_) => path,
        };
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
