//! Cached tensors that stay in memory, as many as fit.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use flowtune_engine::Tensor;

use crate::error::{Error, Result};

/// Tensors by the path of their cache entry.
#[derive(Debug)]
pub(super) struct Memory(Mutex<Kept>);

#[derive(Debug)]
struct Kept {
    tensors: HashMap<PathBuf, Tensor>,
    bytes_left: usize,
}

impl Memory {
    pub(super) fn new(bytes: usize) -> Self {
        Self(Mutex::new(Kept { tensors: HashMap::new(), bytes_left: bytes }))
    }

    /// The entry at `path` with an axis of length 1 in front.
    pub(super) fn get(&self, path: PathBuf, read: impl FnOnce() -> Result<Option<Tensor>>) -> Result<Tensor> {
        if let Some(tensor) = self.kept().tensors.get(&path) {
            return Ok(tensor.clone());
        }
        let tensor = read()?.ok_or_else(|| Error::gone(path.clone()))?;
        let tensor = tensor.reshape(&[&[1], tensor.shape()].concat())?;
        let mut kept = self.kept();
        if let Some(left) = kept.bytes_left.checked_sub(tensor.bytes()) {
            kept.bytes_left = left;
            kept.tensors.insert(path, tensor.clone());
        }
        Ok(tensor)
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.kept().tensors.is_empty()
    }

    fn kept(&self) -> std::sync::MutexGuard<'_, Kept> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
