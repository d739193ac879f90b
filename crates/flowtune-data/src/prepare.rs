//! Encodes what the cache lacks.

use std::collections::HashMap;
use std::fs;
use std::path::PathBuf;

use flowtune_engine::Tensor;

use crate::cache::{Cache, LatentKey, TextKey};
use crate::dataset::{Dataset, Item, OnBadFile, Skipped};
use crate::encoder::{CaptionEncoder, ImageEncoder};
use crate::error::{Error, Result};
use crate::image::{Size, bucket_for, decode_image, image_size};

/// Size of the images.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TargetSize {
    /// Squares with this side, in pixels.
    Square(usize),
    /// Aspects of their own with about the pixels of this square.
    Bucket(usize),
}

impl TargetSize {
    fn of(self, source: Size) -> Size {
        match self {
            Self::Square(side) => Size { width: side, height: side },
            Self::Bucket(side) => bucket_for(source.width, source.height, side),
        }
    }
}

/// What [`prepare`] tells while it works.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notice {
    /// How far a stage is.
    Progress {
        /// `encoding captions` or `encoding images`.
        stage: &'static str,
        /// How many are done.
        done: usize,
        /// Of how many.
        total: usize,
    },
    /// Something the user should know.
    Warning {
        /// `CACHE_STALE` or `DATA_UNREADABLE`.
        code: &'static str,
        /// In words.
        message: String,
    },
}

/// A cached sample.
#[derive(Debug, Clone)]
pub struct Sample {
    /// The image file.
    pub path: PathBuf,
    /// Its caption.
    pub caption: String,
    /// Where its latents are.
    pub latents: LatentKey,
    /// Shape of its latents, `[C, h, w]`.
    pub latent_shape: Vec<usize>,
    /// Where its embeddings are.
    pub text: TextKey,
}

/// A dataset whose latents and embeddings are all in the cache.
#[derive(Debug, Clone)]
pub struct Prepared {
    /// The samples, in the dataset's order.
    pub samples: Vec<Sample>,
    /// Embeddings of the empty prompt, `[S, D]`: what a dropped caption is replaced by.
    pub empty_prompt: Tensor,
    /// Number of distinct captions.
    pub captions: usize,
    /// What was left out, by the dataset and here.
    pub skipped: Vec<Skipped>,
    /// The cache.
    pub cache: Cache,
}

/// Makes sure that the latents of every image and the embeddings of every caption are in `cache`, whole. Damaged
/// entries are made again, with a warning. `on_notice` hears of progress and warnings; an error that it returns (as
/// [`Error::Cancelled`]) ends the work, and what is cached stays.
///
/// # Errors
/// `DATA_UNREADABLE` naming an image that cannot be decoded (left out under [`OnBadFile::Skip`]); `IO`; the encoders'.
pub fn prepare(
    dataset: &Dataset,
    target: TargetSize,
    image_encoder: &dyn ImageEncoder,
    caption_encoder: &dyn CaptionEncoder,
    cache: &Cache,
    on_notice: &dyn Fn(Notice) -> Result<()>,
) -> Result<Prepared> {
    for skipped in &dataset.skipped {
        on_notice(Notice::Warning { code: "DATA_UNREADABLE", message: skipped.message.clone() })?;
    }
    let texts = Captions::new(caption_encoder, cache, on_notice)?;
    let (empty_prompt, keys) = texts.all(&dataset.items)?;
    let images = Images { encoder: image_encoder, fingerprint: image_encoder.fingerprint()?, target, cache, on_notice };
    let (mut samples, mut skipped) = (Vec::new(), dataset.skipped.clone());
    for (done, item) in dataset.items.iter().enumerate() {
        progress(on_notice, "encoding images", done, dataset.items.len())?;
        match images.one(item) {
            Ok((latents, latent_shape)) => {
                let text = keys[item.caption.as_str()].clone();
                let (path, caption) = (item.image.clone(), item.caption.clone());
                samples.push(Sample { path, caption, latents, latent_shape, text });
            }
            Err(Error::Unreadable { path, reason }) if dataset.on_bad_file == OnBadFile::Skip => {
                let message = format!("{}: {reason}", path.display());
                on_notice(Notice::Warning { code: "DATA_UNREADABLE", message: message.clone() })?;
                skipped.push(Skipped { path, message });
            }
            Err(error) => return Err(error),
        }
    }
    progress(on_notice, "encoding images", dataset.items.len(), dataset.items.len())?;
    if let (true, Some(first)) = (samples.is_empty(), skipped.first()) {
        return Err(Error::unreadable(&first.path, "and every other image was left out; nothing remains to train on"));
    }
    Ok(Prepared { samples, empty_prompt, captions: keys.len(), skipped, cache: cache.clone() })
}

/// Embeddings of captions and prompts, from the cache where it has them.
pub struct Captions<'a> {
    encoder: &'a dyn CaptionEncoder,
    fingerprint: String,
    cache: &'a Cache,
    on_notice: &'a dyn Fn(Notice) -> Result<()>,
}

impl<'a> Captions<'a> {
    /// Embeddings that `encoder` makes and `cache` keeps.
    ///
    /// # Errors
    /// `IO` when the encoder's files cannot be read.
    pub fn new(
        encoder: &'a dyn CaptionEncoder,
        cache: &'a Cache,
        on_notice: &'a dyn Fn(Notice) -> Result<()>,
    ) -> Result<Self> {
        Ok(Self { encoder, fingerprint: encoder.fingerprint()?, cache, on_notice })
    }

    /// Embeddings `[S, D]` of `caption`.
    ///
    /// # Errors
    /// `IO`; the encoder's.
    pub fn embeddings(&self, caption: &str) -> Result<Tensor> {
        Ok(self.one(caption)?.1)
    }

    /// Embeddings of the empty prompt, and the key of every distinct caption.
    fn all<'b>(&self, items: &'b [Item]) -> Result<(Tensor, HashMap<&'b str, TextKey>)> {
        let (_, empty) = self.one("")?;
        let mut distinct: Vec<&str> = items.iter().map(|item| item.caption.as_str()).collect();
        distinct.sort_unstable();
        distinct.dedup();
        let mut keys = HashMap::new();
        for (done, &caption) in distinct.iter().enumerate() {
            progress(self.on_notice, "encoding captions", done, distinct.len())?;
            keys.insert(caption, self.one(caption)?.0);
        }
        progress(self.on_notice, "encoding captions", distinct.len(), distinct.len())?;
        Ok((empty, keys))
    }

    fn one(&self, caption: &str) -> Result<(TextKey, Tensor)> {
        let key = Cache::text_key(caption, &self.fingerprint, self.encoder.tokens());
        if let Some(embeddings) = usable(self.cache.text(&key), self.on_notice)? {
            return Ok((key, embeddings));
        }
        let embeddings = self.encoder.encode(caption)?;
        self.cache.put_text(&key, &embeddings)?;
        Ok((key, embeddings))
    }
}

struct Images<'a> {
    encoder: &'a dyn ImageEncoder,
    fingerprint: String,
    target: TargetSize,
    cache: &'a Cache,
    on_notice: &'a dyn Fn(Notice) -> Result<()>,
}

impl Images<'_> {
    /// Key and shape of the latents.
    fn one(&self, item: &Item) -> Result<(LatentKey, Vec<usize>)> {
        let path = &item.image;
        let bytes = fs::read(path).map_err(|e| Error::unreadable(path, format!("cannot be read ({e})")))?;
        let size = self.target.of(image_size(&bytes, path)?);
        let key = Cache::latent_key(&bytes, &self.fingerprint, size);
        if let Some(latents) = usable(self.cache.latents(&key), self.on_notice)? {
            return Ok((key, latents.shape().to_vec()));
        }
        let image = decode_image(&bytes, path, size)?.reshape(&[1, 3, size.height, size.width])?;
        let latents = self.encoder.encode(&image)?;
        let latents = latents.reshape(&latents.shape()[1..])?;
        self.cache.put_latents(&key, &latents)?;
        Ok((key, latents.shape().to_vec()))
    }
}

/// The entry; none, after a warning, when it is damaged.
fn usable(entry: Result<Option<Tensor>>, on_notice: &dyn Fn(Notice) -> Result<()>) -> Result<Option<Tensor>> {
    match entry {
        Err(error @ Error::CacheStale { .. }) => {
            let message = format!("{error}; it is made again");
            on_notice(Notice::Warning { code: "CACHE_STALE", message })?;
            Ok(None)
        }
        other => other,
    }
}

fn progress(on_notice: &dyn Fn(Notice) -> Result<()>, stage: &'static str, done: usize, total: usize) -> Result<()> {
    on_notice(Notice::Progress { stage, done, total })
}

#[cfg(test)]
pub(crate) mod tests;
