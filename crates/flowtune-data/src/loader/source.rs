//! From the number of a batch to its tensors.

use std::collections::BTreeMap;

use flowtune_engine::{DType, Tensor};

use super::Batch;
use super::memory::Memory;
use crate::dataset::Source;
use crate::error::{Error, Result};
use crate::order::Order;
use crate::prepare::{CachedLatents, Prepared, Sample};

/// Reads batches; all of it may be shared by threads.
#[derive(Debug)]
pub(super) struct BatchSource {
    prepared: Prepared,
    order: Order,
    pub(super) memory: Memory,
}

impl BatchSource {
    pub(super) fn new(prepared: Prepared, batch_size: usize, seed: u64, memory_bytes: usize) -> Self {
        let order = Order::new(prepared.samples.iter().map(shape), &repeats(&prepared), batch_size, seed);
        Self { prepared, order, memory: Memory::new(memory_bytes) }
    }

    pub(super) fn prepared(&self) -> &Prepared {
        &self.prepared
    }

    pub(super) fn batch(&self, step: u64) -> Result<Batch> {
        let captions = |index: usize| self.prepared.samples[index].captions.len();
        let choose = |(slot, index): (usize, usize)| (index, self.order.choice(step, slot, captions(index)));
        self.gather(&self.order.batch(step).into_iter().enumerate().map(choose).collect::<Vec<_>>())
    }

    /// Samples by their index, each with the number of its caption.
    pub(super) fn gather(&self, chosen: &[(usize, usize)]) -> Result<Batch> {
        let sample = |&(index, caption): &(usize, usize)| Some((self.prepared.samples.get(index)?, caption));
        let samples: Option<Vec<(&Sample, usize)>> = chosen.iter().map(sample).collect();
        let samples = samples.ok_or_else(|| Error::InvalidArgument(format!("there are no samples {chosen:?}")))?;
        let all = |read: &dyn Fn(&Sample, usize) -> Result<Tensor>| {
            let rows = samples.iter().map(|(sample, caption)| read(sample, *caption)).collect::<Result<Vec<_>>>()?;
            Ok::<_, Error>(Tensor::cat_rows(&rows)?)
        };
        let masked = samples.iter().any(|(sample, _)| sample.mask.is_some());
        let referring = samples.iter().any(|(sample, _)| !sample.references.is_empty());
        let references = samples.iter().filter(|_| referring).map(|(sample, _)| self.references(sample));
        Ok(Batch {
            image_latents: all(&|sample, _| self.latents(&sample.latents))?,
            text_embeddings: all(&|sample, caption| self.text(sample, caption))?,
            loss_mask: masked.then(|| all(&|sample, _| self.mask(sample))).transpose()?,
            references: references.collect::<Result<_>>()?,
            captions: samples.iter().map(|(sample, caption)| sample.captions[*caption].clone()).collect(),
            sample_ids: chosen.iter().map(|&(index, _)| index as u64).collect(),
        })
    }

    pub(super) fn groups(&self, batch_size: usize) -> Vec<Vec<usize>> {
        let mut groups: BTreeMap<Vec<usize>, Vec<usize>> = BTreeMap::new();
        for (index, sample) in self.prepared.samples.iter().enumerate() {
            groups.entry(shape(sample)).or_default().push(index);
        }
        groups.into_values().flat_map(|group| group.chunks(batch_size).map(<[_]>::to_vec).collect::<Vec<_>>()).collect()
    }

    /// `[1, C, h, w]`.
    fn latents(&self, latents: &CachedLatents) -> Result<Tensor> {
        let cache = &self.prepared.cache;
        self.memory.get(cache.latent_path(&latents.key), || cache.latents(&latents.key))
    }

    /// `[1, S, D]`.
    fn text(&self, sample: &Sample, caption: usize) -> Result<Tensor> {
        let (cache, key) = (&self.prepared.cache, &sample.texts[caption]);
        Ok(self.memory.get(cache.text_path(key), || cache.text(key))?.to_dtype(DType::F32)?)
    }

    /// `[1, 1, h, w]`; ones for a sample without a mask.
    fn mask(&self, sample: &Sample) -> Result<Tensor> {
        let cache = &self.prepared.cache;
        match &sample.mask {
            Some(key) => self.memory.get(cache.mask_path(key), || cache.mask(key)),
            None => Ok(Tensor::full(1f32, &[&[1, 1], &sample.latents.shape[1..]].concat())),
        }
    }

    fn references(&self, sample: &Sample) -> Result<Vec<Tensor>> {
        sample.references.iter().map(|latents| self.latents(latents)).collect()
    }
}

/// What samples of one batch have in common: the shape of their latents and of those of their references, so that one
/// forward pass takes them all.
fn shape(sample: &Sample) -> Vec<usize> {
    let all = std::iter::once(&sample.latents).chain(&sample.references);
    all.flat_map(|latents| latents.shape.iter().copied()).collect()
}

/// How often each sample is seen, against the others: as often as its source says, or so often that the source has its
/// share of all samples.
fn repeats(prepared: &Prepared) -> Vec<f64> {
    let samples = &prepared.samples;
    let count = |source: usize| samples.iter().filter(|sample| sample.source == source).count() as f64;
    let of_source = |(i, source): (usize, &Source)| match source.weight {
        Some(weight) => weight / count(i).max(1.0),
        None => source.repeats,
    };
    let of_source: Vec<f64> = prepared.sources.iter().enumerate().map(of_source).collect();
    samples.iter().map(|sample| of_source[sample.source]).collect()
}
