//! Where a model comes from: a folder, or a hub, whose files are brought here first.

use std::env;
use std::path::{Path, PathBuf};

use flowtune_hub::{Hub, HubFile, HubModel, Observer, Part, Reference};
use flowtune_models::ModelFolder;
use tempfile::TempDir;

use crate::control::Control;
use crate::error::{Error, Result};
use crate::event::{Event, Unit};
use crate::recipe::{ModelRecipe, Recipe};

/// A pipeline, and perhaps another transformer for it.
pub(crate) struct ModelSource {
    model: Reference<HubModel>,
    transformer: Option<Reference<HubFile>>,
}

/// A pipeline of which the weights may be no more than their headers.
pub(crate) struct Described {
    pub(crate) folder: ModelFolder,
    /// What was written for it, until it is dropped.
    _headers: Vec<TempDir>,
}

/// A [`ModelSource`] on disk.
pub(crate) struct LocalModel {
    pub(crate) folder: ModelFolder,
    /// The commit of a hub's model.
    revision: Option<String>,
    /// The other transformer with the commit of a hub's file.
    transformer: Option<PathBuf>,
}

impl ModelSource {
    /// What was given to a command; paths start at the working directory.
    pub(crate) fn given(model: &Path, transformer: Option<&Path>) -> Result<Self> {
        let base = working_dir()?;
        let transformer = transformer.map(|path| Reference::to_file(path, &base)).transpose()?;
        Ok(Self { model: Reference::to_model(model, &base)?, transformer })
    }

    /// What a resolved recipe says: its paths are absolute, and what is not is a hub's.
    fn of(recipe: &ModelRecipe) -> Result<Self> {
        let model = match Reference::to_known_model(&recipe.path)? {
            Reference::Hub(model) => Reference::Hub(model.at(recipe.revision.clone())?),
            path => path,
        };
        let transformer = recipe.transformer.as_deref().map(Reference::to_known_file).transpose()?;
        Ok(Self { model, transformer })
    }

    /// Brings these parts here and opens the folder. A hub's file of the transformer comes with [`Part::Transformer`] only;
    /// without it, it is used if it is here.
    pub(crate) fn fetch(&self, parts: &[Part], observer: &dyn Observer) -> Result<LocalModel> {
        let wants_transformer = parts.contains(&Part::Transformer);
        let (path, revision) = match &self.model {
            Reference::Path(path) => (path.clone(), None),
            Reference::Hub(model) => {
                let snapshot = Hub::from_env()?.pipeline(model, &self.of_pipeline(parts), observer)?;
                (snapshot.folder, Some(snapshot.commit))
            }
        };
        let (file, transformer) = match &self.transformer {
            None => (None, None),
            Some(Reference::Path(path)) => (Some(path.clone()), Some(path.clone())),
            Some(Reference::Hub(file)) if wants_transformer => {
                let (path, snapshot) = Hub::from_env()?.file(file, observer)?;
                let model = HubModel { revision: Some(snapshot.commit), ..file.model.clone() };
                let pinned = HubFile { model, name: file.name.clone() };
                (Some(path), Some(pinned.reference().into()))
            }
            Some(Reference::Hub(file)) => {
                let cached = Hub::from_env()?.offline().file(file, &());
                (cached.ok().map(|(path, _)| path), Some(file.reference().into()))
            }
        };
        let folder = ModelFolder::open(path)?.with_transformer(file.as_deref());
        Ok(LocalModel { folder, revision, transformer })
    }
}

impl ModelSource {
    /// Those of `parts` that come from the pipeline.
    fn of_pipeline(&self, parts: &[Part]) -> Vec<Part> {
        let is_replaced = |part: &Part| *part == Part::Transformer && self.transformer.is_some();
        parts.iter().copied().filter(|part| !is_replaced(part)).collect()
    }

    /// Opens the folder with headers of weights where the weights themselves are on the hub.
    fn describe(&self) -> Result<Described> {
        let hub = Hub::from_env()?;
        let mut headers = Vec::new();
        let mut kept = |folder: TempDir| {
            let path = folder.path().to_owned();
            headers.push(folder);
            path
        };
        let folder = match &self.model {
            Reference::Path(path) => path.clone(),
            Reference::Hub(model) => kept(hub.outline(model, &self.of_pipeline(&Part::ALL), &())?),
        };
        let transformer = match &self.transformer {
            None => None,
            Some(Reference::Path(path)) => Some(path.clone()),
            Some(Reference::Hub(file)) if file.name.ends_with(".safetensors") => {
                Some(kept(hub.outline_of_file(file, &())?).join(&file.name))
            }
            Some(Reference::Hub(file)) => Some(hub.file(file, &())?.0),
        };
        let folder = ModelFolder::open(folder)?.with_transformer(transformer.as_deref());
        Ok(Described { folder, _headers: headers })
    }
}

impl ModelRecipe {
    /// The pipeline's folder for what its headers say: of a hub's model only configuration and headers are fetched.
    ///
    /// # Errors
    /// As [`ModelRecipe::open`].
    pub(crate) fn describe(&self) -> Result<Described> {
        ModelSource::of(self)?.describe()
    }

    /// The pipeline's folder with its transformer; no weights are read. Of a hub's model only the configuration is fetched.
    ///
    /// # Errors
    /// As [`ModelFolder::open`]; `HUB_UNAVAILABLE`, `HUB_GATED`, `HUB_NOT_FOUND`, `HUB_CORRUPT`.
    pub fn open(&self) -> Result<ModelFolder> {
        Ok(ModelSource::of(self)?.fetch(&[], &())?.folder.with_offload(self.offload))
    }

    /// The same with the weights of these parts.
    ///
    /// # Errors
    /// As [`ModelRecipe::open`]; `CANCELLED`.
    pub fn open_with(&self, parts: &[Part], control: &Control) -> Result<ModelFolder> {
        Ok(ModelSource::of(self)?.fetch(parts, control)?.folder.with_offload(self.offload))
    }

    /// That the model may be trained; before gigabytes of it are fetched.
    ///
    /// # Errors
    /// `RECIPE_INVALID` for a distilled model that the recipe does not allow.
    pub(crate) fn check_distilled(&self, folder: &ModelFolder) -> Result<()> {
        if !folder.is_distilled() || self.allow_distilled {
            return Ok(());
        }
        Err(Error::Recipe(format!(
            "`model.path`: {} is step-distilled, and training it gives grey, generic images; take its -base variant, or \
             set `model.allowDistilled`: true",
            self.path.display()
        )))
    }
}

impl Recipe {
    /// The recipe with its whole model here and, if that is a hub's, at the commit that it is at now: what is done with
    /// it later is done with the same weights.
    ///
    /// # Errors
    /// `RECIPE_INVALID` for a distilled model that the recipe does not allow; as [`ModelRecipe::open`]; `CANCELLED`.
    pub(crate) fn with_model(self, control: &Control) -> Result<Self> {
        self.pinned(control)?.with_weights(control)
    }

    /// The recipe at the commit that its model is at now; no weights are fetched.
    ///
    /// # Errors
    /// As [`Recipe::with_model`].
    pub(crate) fn pinned(mut self, control: &Control) -> Result<Self> {
        let described = ModelSource::of(&self.model)?.fetch(&[], control)?;
        self.model.check_distilled(&described.folder)?;
        self.model.revision = described.revision;
        Ok(self)
    }

    /// A pinned recipe with its whole model here.
    ///
    /// # Errors
    /// As [`ModelRecipe::open`]; `CANCELLED`.
    pub(crate) fn with_weights(mut self, control: &Control) -> Result<Self> {
        self.model.transformer = ModelSource::of(&self.model)?.fetch(&Part::ALL, control)?.transformer;
        Ok(self)
    }
}

/// The path of what was given to a command: a model, or a file of one, these parts of which are brought here.
///
/// # Errors
/// `HUB_UNAVAILABLE`, `HUB_GATED`, `HUB_NOT_FOUND`, `HUB_CORRUPT`, `IO`, `CANCELLED`.
pub fn local_path(given: &Path, parts: &[Part], control: &Control) -> Result<PathBuf> {
    let base = working_dir()?;
    if let Reference::Hub(file) = Reference::to_file(given, &base)? {
        return Ok(Hub::from_env()?.file(&file, control)?.0);
    }
    match Reference::to_model(given, &base)? {
        Reference::Path(path) => Ok(path),
        Reference::Hub(model) => Ok(Hub::from_env()?.pipeline(&model, parts, control)?.folder),
    }
}

/// The path of what was given to a command, as far as it is here.
///
/// # Errors
/// `HUB_UNAVAILABLE` for a hub's model that is not in the cache.
pub(crate) fn present_path(given: &Path) -> Result<PathBuf> {
    match Reference::to_model(given, &working_dir()?)? {
        Reference::Path(path) => Ok(path),
        Reference::Hub(model) => Ok(Hub::from_env()?.offline().pipeline(&model, &[], &())?.folder),
    }
}

pub(crate) fn working_dir() -> Result<PathBuf> {
    env::current_dir().map_err(Error::io(Path::new("."), "found"))
}

impl Observer for Control {
    fn progress(&self, stage: &str, done: u64, total: u64) {
        self.emit(&Event::Progress { stage: stage.to_owned(), done, total, unit: Some(Unit::Bytes) });
    }

    fn warning(&self, message: &str) {
        self.emit(&Event::warning("HUB_UNAVAILABLE", message));
    }

    fn is_cancelled(&self) -> bool {
        Control::is_cancelled(self)
    }
}
