//! Batches for training and evaluation.

mod memory;
mod source;

use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

use flowtune_engine::Tensor;

use crate::error::{Error, Result};
use crate::prepare::Prepared;
use source::BatchSource;

/// What one forward pass takes.
#[derive(Debug, Clone)]
pub struct Batch {
    /// Latents `[B, 128, h, w]`, f32.
    pub image_latents: Tensor,
    /// Embeddings `[B, S, D]`, f32.
    pub text_embeddings: Tensor,
    /// What counts in the loss, `[B, 1, h, w]`, f32 in 0..1; none when no sample has a mask.
    pub loss_mask: Option<Tensor>,
    /// Latents of each sample's reference images, `[1, 128, h, w]` each, f32; empty when no sample has any.
    pub references: Vec<Vec<Tensor>>,
    /// Caption of each sample.
    pub captions: Vec<String>,
    /// Index of each sample in [`Prepared::samples`].
    pub sample_ids: Vec<u64>,
}

/// Gives batches of equal shape, shuffled. While one is used, the next is read.
#[derive(Debug)]
pub struct Loader {
    source: Arc<BatchSource>,
    ahead: Mutex<Option<Ahead>>,
}

/// A batch on its way.
#[derive(Debug)]
struct Ahead {
    step: u64,
    batch: JoinHandle<Result<Batch>>,
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
        let source = Arc::new(BatchSource::new(prepared, batch_size, seed, memory_bytes));
        Ok(Self { source, ahead: Mutex::default() })
    }

    /// What the loader draws from.
    pub fn prepared(&self) -> &Prepared {
        self.source.prepared()
    }

    /// Batch number `step`, from 0: a function of the seed and `step` alone.
    ///
    /// # Errors
    /// `CACHE_STALE` when a cache entry vanished or was damaged after it was made.
    pub fn batch(&self, step: u64) -> Result<Batch> {
        let mut ahead = self.ahead.lock().unwrap_or_else(PoisonError::into_inner);
        let batch = match ahead.take() {
            // A reader that panicked has told why; the batch is read once more.
            Some(known) if known.step == step => known.batch.join().unwrap_or_else(|_| self.source.batch(step)),
            _ => self.source.batch(step),
        };
        let (source, step) = (Arc::clone(&self.source), step + 1);
        *ahead = Some(Ahead { step, batch: thread::spawn(move || source.batch(step)) });
        batch
    }

    /// Batch of the samples with these indices, which must have latents of one shape, each with its first caption.
    ///
    /// # Errors
    /// As [`Loader::batch`]; `INVALID_ARGUMENT` when there is no such sample.
    pub fn gather(&self, indices: &[usize]) -> Result<Batch> {
        let samples: Vec<_> = indices.iter().map(|&index| (index, 0)).collect();
        self.source.gather(&samples)
    }

    /// Samples in groups of one shape of at most `batch_size`: every sample once.
    pub fn groups(&self, batch_size: usize) -> Vec<Vec<usize>> {
        self.source.groups(batch_size)
    }
}

#[cfg(test)]
mod tests;
