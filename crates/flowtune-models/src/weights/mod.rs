//! Named weights of one model, from safetensors files or from memory.

mod file;
mod gguf_file;
pub(crate) mod layout;
mod locate;
mod read_at;
mod safetensors_file;
mod save;

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use flowtune_engine::{DType, Device, Tensor};

use crate::error::{Error, Result, layout_error};
use file::WeightFile;
use layout::Place;
use safetensors_file::SafetensorsFile;
pub use save::{replace_file, save_safetensors};

/// Weights of a model under diffusers' names, whatever layout the files have. Clones and scoped views share the open files.
#[derive(Debug, Clone)]
pub struct Weights {
    source: Arc<Source>,
    prefix: String,
    device: Device,
}

#[derive(Debug)]
enum Source {
    Files { origin: PathBuf, files: Vec<WeightFile>, places: BTreeMap<String, Place> },
    Memory(BTreeMap<String, Tensor>),
}

impl Weights {
    /// Opens a `.safetensors` or `.gguf` file, a `.safetensors.index.json` with its shards, or a folder with one of them
    /// (`diffusion_pytorch_model` or `model`, as diffusers and transformers name them). Only headers are read. Files in
    /// Black Forest Labs' own layout, with ComfyUI's prefixes or scaled 8-bit floats, have diffusers' names from here on.
    ///
    /// # Errors
    /// `CHECKPOINT_LAYOUT` when there is no such file, or a file is truncated or damaged; `IO`.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let origin = locate::checkpoint(path.as_ref())?;
        let (paths, index) = locate::shards(&origin)?;
        let files = paths.iter().map(|f| WeightFile::open(f)).collect::<Result<Vec<_>>>()?;
        let mut tensors = HashMap::new();
        for (i, file) in files.iter().enumerate() {
            tensors.extend(file.names().map(|name| (name.clone(), i)));
        }
        if let Some((name, file)) = index.iter().find(|(name, _)| !tensors.contains_key(*name)) {
            let problem = format!("has no tensor {name}, which {} lists; download both again", origin.display());
            return Err(layout_error(file, problem));
        }
        let places = layout::places(&tensors);
        Ok(Self {
            source: Arc::new(Source::Files { origin, files, places }),
            prefix: String::new(),
            device: Device::cpu(),
        })
    }

    /// Weights that are already in memory.
    pub fn from_tensors(tensors: HashMap<String, Tensor>) -> Self {
        let source = Arc::new(Source::Memory(tensors.into_iter().collect()));
        Self { source, prefix: String::new(), device: Device::cpu() }
    }

    /// The weights under `prefix.`; names in the view leave it out.
    #[must_use]
    pub fn scoped(&self, prefix: &str) -> Self {
        Self { prefix: self.full(&format!("{prefix}.")), ..self.clone() }
    }

    /// The same weights, which come to `device` when they are read, one by one.
    #[must_use]
    pub fn on(&self, device: &Device) -> Self {
        Self { device: device.clone(), ..self.clone() }
    }

    /// Where weights come to when they are read.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// A weight of exactly `shape`, as float32 whatever the file holds.
    ///
    /// # Errors
    /// `WEIGHTS_MISSING`, `SHAPE_MISMATCH`; `CHECKPOINT_LAYOUT` when it holds no floating type or the file has
    /// changed since it was opened; `OUT_OF_MEMORY` when there is no room on a device.
    pub fn get(&self, name: &str, shape: &[usize]) -> Result<Tensor> {
        self.get_as(name, shape, DType::F32)
    }

    /// As [`Weights::get`], in another floating type.
    ///
    /// # Errors
    /// As [`Weights::get`].
    pub fn get_as(&self, name: &str, shape: &[usize], dtype: DType) -> Result<Tensor> {
        let got = self.shape(name).ok_or_else(|| self.missing(name))?;
        if got != shape {
            let (file, tensor) = (self.file_of(name), self.full(name));
            return Err(Error::ShapeMismatch { file, tensor, expected: shape.to_vec(), got });
        }
        let full = self.full(name);
        let here = match &*self.source {
            Source::Files { files, places, .. } => files[places[&full].file].read(&places[&full], dtype)?,
            Source::Memory(tensors) => tensors[&full].to_dtype(dtype)?,
        };
        Ok(here.to_device(&self.device)?)
    }

    /// A weight of exactly `shape`, or `None` when the checkpoint does not have it.
    ///
    /// # Errors
    /// As [`Weights::get`], except `WEIGHTS_MISSING`.
    pub fn get_optional(&self, name: &str, shape: &[usize]) -> Result<Option<Tensor>> {
        self.contains(name).then(|| self.get(name, shape)).transpose()
    }

    /// Shape of a weight.
    pub fn shape(&self, name: &str) -> Option<Vec<usize>> {
        let full = self.full(name);
        match &*self.source {
            Source::Files { files, places, .. } => {
                let place = places.get(&full)?;
                place.part.shape(files[place.file].shape(&place.tensor)?)
            }
            Source::Memory(tensors) => tensors.get(&full).map(|t| t.shape().to_vec()),
        }
    }

    /// Type in which a weight is read, before [`Weights::get_as`] converts it: 8-bit floats and GGUF's blocks become float32
    /// on the way.
    pub fn float_type(&self, name: &str) -> Option<DType> {
        let full = self.full(name);
        match &*self.source {
            Source::Files { files, places, .. } => {
                let place = places.get(&full)?;
                files[place.file].float_type(&place.tensor)
            }
            Source::Memory(tensors) => tensors.get(&full).map(Tensor::dtype),
        }
    }

    /// The narrower of bfloat16 and float32 that holds a weight as it is read.
    pub fn stored_dtype(&self, name: &str) -> DType {
        self.float_type(name).filter(|&dtype| dtype == DType::BF16).unwrap_or(DType::F32)
    }

    /// Whether there is a weight of this name.
    pub fn contains(&self, name: &str) -> bool {
        let full = self.full(name);
        match &*self.source {
            Source::Files { places, .. } => places.contains_key(&full),
            Source::Memory(tensors) => tensors.contains_key(&full),
        }
    }

    /// All names, sorted, without the view's prefix.
    pub fn names(&self) -> Vec<String> {
        let strip = |name: &String| name.strip_prefix(&self.prefix).map(str::to_owned);
        match &*self.source {
            Source::Files { places, .. } => places.keys().filter_map(strip).collect(),
            Source::Memory(tensors) => tensors.keys().filter_map(strip).collect(),
        }
    }

    /// The `__metadata__` of the safetensors file that this is, if it is one.
    pub fn metadata(&self) -> Option<&HashMap<String, String>> {
        match &*self.source {
            Source::Files { files, .. } => match &files[..] {
                [WeightFile::Safetensors(file)] => Some(file.metadata()),
                _ => None,
            },
            Source::Memory(_) => None,
        }
    }

    /// Bytes of all weights under the view's prefix, each in its [`Weights::stored_dtype`].
    pub fn stored_bytes(&self) -> usize {
        let bytes = |name: &String| {
            let elements = self.shape(name).map_or(0, |shape| shape.iter().product());
            elements * self.stored_dtype(name).size()
        };
        self.names().iter().map(bytes).sum()
    }

    /// The error that says that `name` is absent.
    pub fn missing(&self, name: &str) -> Error {
        Error::WeightsMissing { file: self.origin(), tensor: self.full(name) }
    }

    /// The checkpoint, for messages.
    pub fn origin(&self) -> String {
        match &*self.source {
            Source::Files { origin, .. } => origin.display().to_string(),
            Source::Memory(_) => "the given tensors".to_owned(),
        }
    }

    fn file_of(&self, name: &str) -> String {
        match &*self.source {
            Source::Files { files, places, .. } => match places.get(&self.full(name)) {
                Some(place) => files[place.file].path().display().to_string(),
                None => self.origin(),
            },
            Source::Memory(_) => self.origin(),
        }
    }

    fn full(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }
}

/// All tensors of a safetensors file in the types that it holds (bfloat16, float16, float32, float64, int64).
///
/// # Errors
/// `CHECKPOINT_LAYOUT` when the file is damaged or holds another type; `IO`.
pub fn read_safetensors(path: impl AsRef<Path>) -> Result<HashMap<String, Tensor>> {
    let file = SafetensorsFile::open(path.as_ref())?;
    file.names().map(|name| Ok((name.clone(), file.read(name)?))).collect()
}

/// The `__metadata__` of a safetensors file.
///
/// # Errors
/// `CHECKPOINT_LAYOUT` when the file is damaged; `IO`.
pub fn read_metadata(path: impl AsRef<Path>) -> Result<HashMap<String, String>> {
    Ok(SafetensorsFile::open(path.as_ref())?.metadata().clone())
}

#[cfg(test)]
mod hostile;
#[cfg(test)]
mod tests;
