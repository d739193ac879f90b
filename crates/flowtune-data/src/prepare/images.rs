//! Latents of images. Files are read, hashed and decoded by all threads, some images ahead of the encoder.

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use flowtune_engine::Tensor;
use rayon::prelude::*;

use super::plan::{Latents, Planned, Planner};
use super::{CachedLatents, OnNotice, Prepared, Sample, Texts, progress, warn};
use crate::cache::Cache;
use crate::dataset::{Dataset, Item, OnBadFile, Skipped};
use crate::encoder::ImageEncoder;
use crate::error::{Error, Result};
use crate::size::Sizing;

/// An image at each of its sizes, and messages on damaged entries.
type Plan = Result<(Vec<Planned>, Vec<String>)>;

/// Makes sure that the latents of every image of `dataset`, of its references, and its masks are in `cache`, whole.
/// Damaged entries are made again, with a warning.
///
/// # Errors
/// `DATA_UNREADABLE` naming a file that cannot be decoded (its image is left out under [`OnBadFile::Skip`]); `IO`; the
/// encoder's; `on_notice`'s.
pub fn encode_images(
    dataset: &Dataset,
    texts: &Texts,
    sizing: &Sizing,
    encoder: &dyn ImageEncoder,
    cache: &Cache,
    on_notice: OnNotice,
) -> Result<Prepared> {
    let planner = Planner { cache, sizing, fingerprint: encoder.fingerprint()? };
    let ahead = 2 * rayon::current_num_threads();
    let encode = |plans: Receiver<Plan>| Encoding { dataset, texts, encoder, cache, on_notice }.all(plans);
    std::thread::scope(|scope| {
        let (send, plans) = sync_channel(ahead);
        scope.spawn(move || plan_all(&planner, &dataset.items, ahead, &send));
        // The thread ends when nobody receives any more.
        encode(plans)
    })
}

/// Plans every image, in order, until nobody listens.
fn plan_all(planner: &Planner, items: &[Item], together: usize, send: &SyncSender<Plan>) {
    for items in items.chunks(together) {
        let plans: Vec<Plan> = items.par_iter().map(|item| planner.plan(item)).collect();
        if plans.into_iter().any(|plan| send.send(plan).is_err()) {
            return;
        }
    }
}

struct Encoding<'a> {
    dataset: &'a Dataset,
    texts: &'a Texts,
    encoder: &'a dyn ImageEncoder,
    cache: &'a Cache,
    on_notice: OnNotice<'a>,
}

impl Encoding<'_> {
    fn all(&self, plans: Receiver<Plan>) -> Result<Prepared> {
        let Self { dataset, cache, on_notice, .. } = *self;
        for skipped in &dataset.skipped {
            warn(on_notice, "DATA_UNREADABLE", skipped.message.clone())?;
        }
        let (mut samples, mut skipped) = (Vec::new(), dataset.skipped.clone());
        let total = dataset.items.len();
        for (done, item) in dataset.items.iter().enumerate() {
            progress(on_notice, "encoding images", done, total)?;
            let plan = plans.recv().map_err(|_| Error::InvalidArgument("decoding ended early".into()))?;
            match plan.and_then(|plan| self.samples(item, plan)) {
                Ok(made) => samples.extend(made),
                Err(Error::Unreadable { path, reason }) if dataset.on_bad_file == OnBadFile::Skip => {
                    let message = format!("{}: {reason}", path.display());
                    warn(on_notice, "DATA_UNREADABLE", message.clone())?;
                    skipped.push(Skipped { path, message });
                }
                Err(error) => return Err(error),
            }
        }
        progress(on_notice, "encoding images", total, total)?;
        if let (true, Some(first)) = (samples.is_empty(), skipped.first()) {
            let reason = "and every other image was left out; nothing remains to train on";
            return Err(Error::unreadable(&first.path, reason));
        }
        let empty_prompt = self.texts.embeddings("")?;
        Ok(Prepared { samples, sources: dataset.sources.clone(), empty_prompt, skipped, cache: cache.clone() })
    }

    /// The samples of an image, one for each of its sizes.
    fn samples(&self, item: &Item, (planned, damaged): (Vec<Planned>, Vec<String>)) -> Result<Vec<Sample>> {
        damaged.into_iter().try_for_each(|message| warn(self.on_notice, "CACHE_STALE", message))?;
        let texts = item.captions.iter().map(|caption| self.texts.key(caption).cloned()).collect::<Result<Vec<_>>>()?;
        let sample = |planned: Planned| {
            Ok(Sample {
                path: item.image.clone(),
                captions: item.captions.clone(),
                texts: texts.clone(),
                latents: self.cached(planned.latents)?,
                mask: planned.mask,
                references: planned
                    .references
                    .into_iter()
                    .map(|latents| self.cached(latents))
                    .collect::<Result<_>>()?,
                source: item.source,
            })
        };
        planned.into_iter().map(sample).collect()
    }

    /// Encodes what is missing.
    fn cached(&self, latents: Latents) -> Result<CachedLatents> {
        let (key, pixels) = match latents {
            Latents::Cached(latents) => return Ok(latents),
            Latents::Missing(key, pixels) => (key, pixels),
        };
        let latents = self.encoder.encode(&pixels.reshape(&[&[1], pixels.shape()].concat())?)?;
        let latents: Tensor = latents.reshape(&latents.shape()[1..])?;
        self.cache.put_latents(&key, &latents)?;
        Ok(CachedLatents { key, shape: latents.shape().to_vec() })
    }
}
