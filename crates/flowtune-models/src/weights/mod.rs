//! Named weights of one model, from safetensors files or from memory.

mod cast;
mod locate;
mod save;
mod shard;

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use flowtune_engine::{DType, Tensor};

use crate::error::{Error, Result, layout_error};
pub use save::{replace_file, save_safetensors};
use shard::Shard;

/// Weights of a model by checkpoint name. Clones and scoped views share the mapped files.
#[derive(Debug, Clone)]
pub struct Weights {
    source: Arc<Source>,
    prefix: String,
}

#[derive(Debug)]
enum Source {
    Files { origin: PathBuf, shards: Vec<Shard>, shard_of: BTreeMap<String, usize> },
    Memory(BTreeMap<String, Tensor>),
}

impl Weights {
    /// Maps a `.safetensors` file, a `.safetensors.index.json` with its shards, or a folder with one of them
    /// (`diffusion_pytorch_model` or `model`, as diffusers and transformers name them). Only headers are read.
    ///
    /// # Errors
    /// `CHECKPOINT_LAYOUT` when there is no such file, or a file is truncated or damaged; `IO`.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let origin = locate::checkpoint(path.as_ref())?;
        let (files, index) = locate::shards(&origin)?;
        let shards = files.iter().map(|f| Shard::open(f)).collect::<Result<Vec<_>>>()?;
        let mut shard_of = BTreeMap::new();
        for (i, shard) in shards.iter().enumerate() {
            shard_of.extend(shard.names().map(|name| (name.clone(), i)));
        }
        if let Some((name, file)) = index.iter().find(|(name, _)| !shard_of.contains_key(*name)) {
            let problem = format!("has no tensor {name}, which {} lists; download both again", origin.display());
            return Err(layout_error(file, problem));
        }
        Ok(Self { source: Arc::new(Source::Files { origin, shards, shard_of }), prefix: String::new() })
    }

    /// Weights that are already in memory.
    pub fn from_tensors(tensors: HashMap<String, Tensor>) -> Self {
        Self { source: Arc::new(Source::Memory(tensors.into_iter().collect())), prefix: String::new() }
    }

    /// The weights under `prefix.`; names in the view leave it out.
    #[must_use]
    pub fn scoped(&self, prefix: &str) -> Self {
        Self { source: Arc::clone(&self.source), prefix: self.full(&format!("{prefix}.")) }
    }

    /// A weight of exactly `shape`, as float32 whatever the file holds.
    ///
    /// # Errors
    /// `WEIGHTS_MISSING`, `SHAPE_MISMATCH`; `CHECKPOINT_LAYOUT` when it holds no floating type or the file has
    /// changed since it was opened.
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
        match &*self.source {
            Source::Files { shards, shard_of, .. } => shards[shard_of[&full]].read_floats(&full, dtype),
            Source::Memory(tensors) => Ok(tensors[&full].to_dtype(dtype)?),
        }
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
            Source::Files { shards, shard_of, .. } => {
                Some(shards[*shard_of.get(&full)?].info(&full).ok()?.shape.clone())
            }
            Source::Memory(tensors) => tensors.get(&full).map(|t| t.shape().to_vec()),
        }
    }

    /// Whether there is a weight of this name.
    pub fn contains(&self, name: &str) -> bool {
        let full = self.full(name);
        match &*self.source {
            Source::Files { shard_of, .. } => shard_of.contains_key(&full),
            Source::Memory(tensors) => tensors.contains_key(&full),
        }
    }

    /// All names, sorted, without the view's prefix.
    pub fn names(&self) -> Vec<String> {
        let strip = |name: &String| name.strip_prefix(&self.prefix).map(str::to_owned);
        match &*self.source {
            Source::Files { shard_of, .. } => shard_of.keys().filter_map(strip).collect(),
            Source::Memory(tensors) => tensors.keys().filter_map(strip).collect(),
        }
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
            Source::Files { shards, shard_of, .. } => match shard_of.get(&self.full(name)) {
                Some(&i) => shards[i].path().display().to_string(),
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
    let shard = Shard::open(path.as_ref())?;
    shard.names().map(|name| Ok((name.clone(), shard.read(name)?))).collect()
}

/// The `__metadata__` of a safetensors file.
///
/// # Errors
/// `CHECKPOINT_LAYOUT` when the file is damaged; `IO`.
pub fn read_metadata(path: impl AsRef<Path>) -> Result<HashMap<String, String>> {
    Ok(Shard::open(path.as_ref())?.metadata())
}

#[cfg(test)]
mod tests;
