//! Batches for training and evaluation.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use flowtune_engine::Tensor;

use crate::error::{Error, Result};
use crate::order::Order;
use crate::prepare::{Prepared, Sample};

/// What one forward pass takes.
#[derive(Debug, Clone)]
pub struct Batch {
    /// Latents `[B, 128, h, w]`, f32.
    pub image_latents: Tensor,
    /// Embeddings `[B, S, D]`, f32.
    pub text_embeddings: Tensor,
    /// Index of each sample in [`Prepared::samples`].
    pub sample_ids: Vec<u64>,
}

/// Gives batches of equal latent shape, shuffled.
#[derive(Debug)]
pub struct Loader {
    prepared: Prepared,
    order: Order,
    memory: Mutex<Memory>,
}

/// Tensors by the name of their cache entry.
#[derive(Debug)]
struct Memory {
    tensors: HashMap<String, Tensor>,
    bytes_left: usize,
}

impl Loader {
    /// Loader of batches of `batch_size`. Tensors stay in memory up to `memory_bytes`; the others are read from the cache
    /// each time.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` when there are no samples or `batch_size` is 0.
    pub fn new(prepared: Prepared, batch_size: usize, seed: u64, memory_bytes: usize) -> Result<Self> {
        if prepared.samples.is_empty() || batch_size == 0 {
            return Err(Error::InvalidArgument("a loader needs at least one sample and a batch size of 1".into()));
        }
        let order = Order::new(prepared.samples.iter().map(|s| s.latent_shape.as_slice()), batch_size, seed);
        let memory = Mutex::new(Memory { tensors: HashMap::new(), bytes_left: memory_bytes });
        Ok(Self { prepared, order, memory })
    }

    /// What the loader draws from.
    pub fn prepared(&self) -> &Prepared {
        &self.prepared
    }

    /// Batch number `step`, from 0: a function of the seed and `step` alone.
    ///
    /// # Errors
    /// `CACHE_STALE` when a cache entry vanished or was damaged after [`crate::prepare`].
    pub fn batch(&self, step: u64) -> Result<Batch> {
        self.gather(&self.order.batch(step))
    }

    /// Batch of the samples with these indices, which must have latents of one shape.
    ///
    /// # Errors
    /// As [`Loader::batch`]; `INVALID_ARGUMENT` when there is no such sample.
    pub fn gather(&self, indices: &[usize]) -> Result<Batch> {
        let samples = indices.iter().map(|&i| self.prepared.samples.get(i)).collect::<Option<Vec<&Sample>>>();
        let samples = samples.ok_or_else(|| Error::InvalidArgument(format!("there are no samples {indices:?}")))?;
        let latents = samples.iter().map(|s| self.latents(s)).collect::<Result<Vec<_>>>()?;
        let text = samples.iter().map(|s| self.text(s)).collect::<Result<Vec<_>>>()?;
        Ok(Batch {
            image_latents: Tensor::cat_rows(&latents)?,
            text_embeddings: Tensor::cat_rows(&text)?,
            sample_ids: indices.iter().map(|&i| i as u64).collect(),
        })
    }

    /// `[1, C, h, w]`.
    fn latents(&self, sample: &Sample) -> Result<Tensor> {
        let path = self.prepared.cache.latent_path(&sample.latents);
        self.remember(path, || self.prepared.cache.latents(&sample.latents))
    }

    /// `[1, S, D]`.
    fn text(&self, sample: &Sample) -> Result<Tensor> {
        let path = self.prepared.cache.text_path(&sample.text);
        self.remember(path, || self.prepared.cache.text(&sample.text))
    }

    fn remember(&self, path: std::path::PathBuf, read: impl FnOnce() -> Result<Option<Tensor>>) -> Result<Tensor> {
        let name = path.to_string_lossy().into_owned();
        if let Some(tensor) = self.memory().tensors.get(&name) {
            return Ok(tensor.clone());
        }
        let gone = || Error::CacheStale { path, reason: "is gone; start again to have it made again".into() };
        let tensor = read()?.ok_or_else(gone)?;
        let tensor = tensor.reshape(&[&[1], tensor.shape()].concat())?;
        let mut memory = self.memory();
        if let Some(left) = memory.bytes_left.checked_sub(tensor.bytes()) {
            memory.bytes_left = left;
            memory.tensors.insert(name, tensor.clone());
        }
        Ok(tensor)
    }

    fn memory(&self) -> std::sync::MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::prepare::tests::Fixture;

    #[test]
    fn batches_hold_the_samples_they_name() {
        let fixture = Fixture::new(5);
        let prepared = fixture.prepare().unwrap();
        for memory_bytes in [0, 1 << 20] {
            let loader = Loader::new(prepared.clone(), 3, 7, memory_bytes).unwrap();
            for step in 0..6 {
                let batch = loader.batch(step).unwrap();
                assert_eq!(batch.image_latents.shape(), [3, 2, 1, 1]);
                assert_eq!(batch.text_embeddings.shape(), [3, 2, 1]);
                let (latents, text) =
                    (batch.image_latents.to_f32_vec().unwrap(), batch.text_embeddings.to_f32_vec().unwrap());
                for (i, &id) in batch.sample_ids.iter().enumerate() {
                    // Fixture: the red of image n is 10·n, its caption has n + 1 letters.
                    assert!((latents[2 * i] - (10.0 * id as f32 / 127.5 - 1.0)).abs() < 1e-5);
                    assert_eq!(text[2 * i], id as f32 + 1.0);
                }
            }
            assert_eq!(loader.memory().tensors.is_empty(), memory_bytes == 0);
        }
    }

    #[test]
    fn a_vanished_entry_is_named() {
        let fixture = Fixture::new(2);
        let prepared = fixture.prepare().unwrap();
        let path = prepared.cache.latent_path(&prepared.samples[0].latents);
        std::fs::remove_file(&path).unwrap();
        let loader = Loader::new(prepared, 1, 0, 0).unwrap();
        let error = loader.gather(&[0]).unwrap_err();
        assert_eq!(error.code(), "CACHE_STALE");
        assert!(error.to_string().contains(path.to_str().unwrap()), "{error}");
        assert_eq!(loader.gather(&[2]).unwrap_err().code(), "INVALID_ARGUMENT");
    }
}
