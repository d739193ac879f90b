//! What a run trains: adapters or the whole transformer; how it is saved and restored.

use std::fs;
use std::path::{Path, PathBuf};

use flowtune_engine::{DType, Param, Tensor};
use flowtune_models::lora::{LoraConfig, add_lora, load_lora, save_lora};
use flowtune_models::transformer::Flux2Transformer;
use flowtune_models::{read_safetensors, save_safetensors};

use crate::error::{Error, Result};
use crate::export::given_lora;
use crate::lora_notes::lora_notes;
use crate::recipe::{Mode, Recipe};
use crate::run_folder::RunFolder;

const WEIGHTS_FILE: &str = "weights.safetensors";

/// The trainable weights of a run, float32.
pub(crate) struct Trainable {
    pub(crate) params: Vec<Param>,
    kind: Kind,
}

enum Kind {
    Lora,
    Full(DType),
}

/// The adapters that a recipe asks for.
pub(crate) fn lora_config(recipe: &Recipe) -> LoraConfig {
    let targets = recipe.lora.targets.clone().unwrap_or_else(|| LoraConfig::default().targets);
    LoraConfig { rank: recipe.lora.rank, alpha: recipe.lora.alpha, targets }
}

/// The layers that get an adapter.
pub(crate) fn selected_modules<'a>(model: &'a Flux2Transformer, config: &LoraConfig) -> Result<Vec<&'a str>> {
    config.selected(model).map_err(|e| Error::Recipe(format!("`lora.targets`: {e}")))
}

impl Trainable {
    /// Makes what the recipe trains trainable, and the rest of the model frozen.
    pub(crate) fn new(model: &Flux2Transformer, recipe: &Recipe) -> Result<Self> {
        match recipe.mode {
            Mode::Lora => {
                let params = match &recipe.lora.from {
                    Some(lora) => load_lora(model, &given_lora(lora))?,
                    None => {
                        let config = lora_config(recipe);
                        selected_modules(model, &config)?;
                        add_lora(model, &config, recipe.train.seed)?
                    }
                };
                Ok(Self { params, kind: Kind::Lora })
            }
            Mode::Full => {
                model.params().iter().for_each(|p| p.set_trainable(true));
                Ok(Self { params: model.params().to_vec(), kind: Kind::Full(recipe.output.weights_dtype.into()) })
            }
        }
    }

    fn tensors(&self) -> Vec<(String, Tensor)> {
        self.params.iter().map(|p| (p.name().to_owned(), p.value())).collect()
    }

    /// Writes the weights into a checkpoint folder.
    pub(crate) fn save(&self, dir: &Path) -> Result<()> {
        Ok(save_safetensors(dir.join(WEIGHTS_FILE), &self.tensors(), None)?)
    }

    /// Takes the weights of a checkpoint folder over.
    pub(crate) fn restore(&self, dir: &Path) -> Result<()> {
        let file = dir.join(WEIGHTS_FILE);
        let mut tensors = read_safetensors(&file)?;
        for param in &self.params {
            let tensor = tensors.remove(param.name());
            let fits = tensor.filter(|t| t.shape() == param.value().shape() && t.dtype() == DType::F32);
            let wrong = || Error::layout(&file, format!("{} is missing or of another shape", param.name()));
            param.set(fits.ok_or_else(wrong)?.to_device(&param.value().device())?);
        }
        Ok(())
    }

    /// Writes the result into the run folder, in diffusers layout, and returns its folder.
    pub(crate) fn export(&self, run: &RunFolder, model: &Flux2Transformer, recipe: &Recipe) -> Result<PathBuf> {
        match &self.kind {
            Kind::Lora => {
                let dir = run.lora_dir();
                save_lora(model, &dir, &lora_notes(recipe, model.config())?)?;
                Ok(dir)
            }
            Kind::Full(dtype) => {
                let dir = made(run.transformer_dir())?;
                let cast = |(name, t): (String, Tensor)| Ok((name, t.to_dtype(*dtype)?));
                let tensors = self.tensors().into_iter().map(cast).collect::<Result<Vec<_>>>()?;
                save_safetensors(dir.join("diffusion_pytorch_model.safetensors"), &tensors, None)?;
                model.config().save(&dir)?;
                Ok(dir)
            }
        }
    }
}

fn made(dir: PathBuf) -> Result<PathBuf> {
    fs::create_dir_all(&dir).map_err(Error::io(&dir, "made"))?;
    Ok(dir)
}
