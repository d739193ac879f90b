//! A FLUX.2 model folder in diffusers layout.

use std::fs;
use std::path::{Path, PathBuf};

use flowtune_engine::Device;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::error::{Result, io_error, layout_error};
use crate::text::{PromptStyle, PromptTokenizer, TextConfig, TextEncoder};
use crate::transformer::Offload;
use crate::vae::{AutoencoderKLFlux2, VaeConfig};
use crate::weights::Weights;

/// A folder with `model_index.json` and one folder per component. Opening it reads no weights.
#[derive(Debug, Clone)]
pub struct ModelFolder {
    path: PathBuf,
    transformer: Option<PathBuf>,
    /// What models compute on, if it was said.
    device: Option<Device>,
    offload: Offload,
    class_name: String,
    is_distilled: bool,
}

#[derive(Deserialize)]
struct ModelIndex {
    #[serde(rename = "_class_name")]
    class_name: String,
    #[serde(default)]
    is_distilled: bool,
}

/// What `scheduler/scheduler_config.json` says (`FlowMatchEulerDiscreteScheduler`); defaults are FLUX.2's.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default)]
pub struct SchedulerConfig {
    /// Steps of the training schedule: timesteps are sigma times this.
    pub num_train_timesteps: usize,
    /// Constant shift of the sigmas, used when the shift is not dynamic.
    pub shift: f64,
    /// Whether the shift depends on the number of image tokens.
    pub use_dynamic_shifting: bool,
    /// `exponential` or `linear`.
    pub time_shift_type: String,
    /// Shift at `base_image_seq_len` tokens.
    pub base_shift: f64,
    /// Shift at `max_image_seq_len` tokens.
    pub max_shift: f64,
    /// Tokens at which `base_shift` holds.
    pub base_image_seq_len: usize,
    /// Tokens at which `max_shift` holds.
    pub max_image_seq_len: usize,
}

impl Default for SchedulerConfig {
    fn default() -> Self {
        Self {
            num_train_timesteps: 1000,
            shift: 3.0,
            use_dynamic_shifting: true,
            time_shift_type: "exponential".to_owned(),
            base_shift: 0.5,
            max_shift: 1.15,
            base_image_seq_len: 256,
            max_image_seq_len: 4096,
        }
    }
}

impl ModelFolder {
    /// Reads `model_index.json`.
    ///
    /// # Errors
    /// `CHECKPOINT_LAYOUT` when this is no FLUX.2 folder; `IO`.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref().to_path_buf();
        if path.is_file() {
            let problem = "is one file, and a pipeline has a VAE, a text encoder and a tokenizer too: give the folder of one in \
                           diffusers layout, and this file as its transformer (`model.transformer`, `--transformer`)";
            return Err(layout_error(&path, problem));
        }
        let file = path.join("model_index.json");
        let index: ModelIndex = read_json(&file)?;
        if !index.class_name.starts_with("Flux2") {
            let problem =
                format!("describes a {}; flowtune trains FLUX.2 (Flux2Pipeline, Flux2KleinPipeline)", index.class_name);
            return Err(layout_error(&file, problem));
        }
        Ok(Self {
            path,
            transformer: None,
            device: None,
            offload: Offload::default(),
            class_name: index.class_name,
            is_distilled: index.is_distilled,
        })
    }

    /// The same with the transformer from another place: a folder, or a file in any layout that [`Weights::open`] knows.
    #[must_use]
    pub fn with_transformer(self, transformer: Option<&Path>) -> Self {
        Self { transformer: transformer.map(Path::to_path_buf), ..self }
    }

    /// The same with models that compute on `device`, and not on [`Device::preferred`].
    #[must_use]
    pub fn on(self, device: &Device) -> Self {
        Self { device: Some(device.clone()), ..self }
    }

    /// The same with weights of the transformer's blocks where `offload` says.
    #[must_use]
    pub fn with_offload(self, offload: Offload) -> Self {
        Self { offload, ..self }
    }

    /// Where weights of the transformer's blocks rest.
    pub(crate) fn offload(&self) -> Offload {
        self.offload
    }

    /// What models compute on.
    pub(crate) fn device(&self) -> Result<Device> {
        Ok(self.device.clone().map_or_else(Device::preferred, Ok)?)
    }

    /// Where the transformer is.
    pub(crate) fn transformer_path(&self) -> Result<PathBuf> {
        self.transformer.clone().map_or_else(|| self.component("transformer"), Ok)
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Pipeline class, e.g. `Flux2KleinPipeline`.
    pub fn class_name(&self) -> &str {
        &self.class_name
    }

    /// Whether the model is distilled for few steps without guidance.
    pub fn is_distilled(&self) -> bool {
        self.is_distilled
    }

    /// The folder of a component.
    ///
    /// # Errors
    /// `CHECKPOINT_LAYOUT` when it is absent.
    pub fn component(&self, name: &str) -> Result<PathBuf> {
        let folder = self.path.join(name);
        match folder.is_dir() {
            true => Ok(folder),
            false => Err(layout_error(&folder, "is missing; download the whole model folder")),
        }
    }

    /// `config.json` of a component.
    ///
    /// # Errors
    /// `CHECKPOINT_LAYOUT` when it is absent or does not fit `T`; `IO`.
    pub fn config<T: DeserializeOwned>(&self, component: &str) -> Result<T> {
        read_json(&self.component(component)?.join("config.json"))
    }

    /// Weights of a component, mapped, not yet read.
    ///
    /// # Errors
    /// As [`Weights::open`].
    pub fn weights(&self, component: &str) -> Result<Weights> {
        Weights::open(self.component(component)?)
    }

    /// Loads the VAE.
    ///
    /// # Errors
    /// `CHECKPOINT_LAYOUT`, `WEIGHTS_MISSING`, `SHAPE_MISMATCH`, `IO`; `DEVICE_UNAVAILABLE`.
    pub fn vae(&self) -> Result<AutoencoderKLFlux2> {
        let weights = self.weights("vae")?.on(&self.device()?);
        AutoencoderKLFlux2::load(self.config::<VaeConfig>("vae")?, &weights)
    }

    /// Configuration of the text encoder.
    ///
    /// # Errors
    /// `CHECKPOINT_LAYOUT`, `IO`.
    pub fn text_config(&self) -> Result<TextConfig> {
        let file = self.component("text_encoder")?.join("config.json");
        TextConfig::from_json(&read_json::<Value>(&file)?, &file)
    }

    /// Loads the text encoder as far as FLUX.2 needs it: hidden states 9, 18, 27 of Qwen3, 10, 20, 30 of Mistral3. Where a
    /// card has no room for it, to the host, where captions take longer.
    ///
    /// # Errors
    /// `CHECKPOINT_LAYOUT`, `WEIGHTS_MISSING`, `SHAPE_MISMATCH`, `IO`; `DEVICE_UNAVAILABLE`.
    pub fn text_encoder(&self) -> Result<TextEncoder> {
        /// A matrix in float32 for a product, and activations.
        const BESIDE_WEIGHTS: usize = 2 << 30;
        let config = self.text_config()?;
        let layers = config.family.flux2_layers();
        let weights = self.weights("text_encoder")?;
        let device = self.device()?.with_room_for(weights.stored_bytes() + BESIDE_WEIGHTS)?;
        TextEncoder::load(config, &weights.on(&device), &layers)
    }

    /// Loads the tokenizer with the prompt style of the text encoder.
    ///
    /// # Errors
    /// `CHECKPOINT_LAYOUT`, `IO`.
    pub fn tokenizer(&self) -> Result<PromptTokenizer> {
        let style = PromptStyle::of(self.text_config()?.family);
        PromptTokenizer::load(self.component("tokenizer")?, style)
    }

    /// Configuration of the sampler.
    ///
    /// # Errors
    /// `CHECKPOINT_LAYOUT`, `IO`.
    pub fn scheduler_config(&self) -> Result<SchedulerConfig> {
        read_json(&self.component("scheduler")?.join("scheduler_config.json"))
    }
}

/// A JSON file.
pub(crate) fn read_json<T: DeserializeOwned>(file: &Path) -> Result<T> {
    if !file.is_file() {
        return Err(layout_error(file, "is missing; give the folder of a whole model in diffusers layout"));
    }
    let text = fs::read(file).map_err(io_error(file))?;
    serde_json::from_slice(&text)
        .map_err(|e| layout_error(file, format!("is damaged or of another model ({e}); download it again")))
}
