//! Encodes what the cache lacks: captions first, then images, so that the two encoders are never in memory together.

mod captions;
mod images;
mod plan;

use std::path::PathBuf;

use flowtune_engine::Tensor;

use crate::cache::{Cache, LatentKey, MaskKey, TextKey};
use crate::dataset::{Skipped, Source};
use crate::error::Result;
pub use captions::{Texts, encode_captions};
pub use images::encode_images;

/// What the encoding tells while it works.
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

/// Hears of progress and warnings; an error that it returns (as [`crate::Error::Cancelled`]) ends the work, and what is
/// cached stays.
pub type OnNotice<'a> = &'a dyn Fn(Notice) -> Result<()>;

/// Latents in the cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CachedLatents {
    /// Where they are.
    pub key: LatentKey,
    /// `[C, h, w]`.
    pub shape: Vec<usize>,
}

/// An image at one size, with all that belongs to it, in the cache.
#[derive(Debug, Clone)]
pub struct Sample {
    /// The image file.
    pub path: PathBuf,
    /// Its captions.
    pub captions: Vec<String>,
    /// Where their embeddings are.
    pub texts: Vec<TextKey>,
    /// Its latents.
    pub latents: CachedLatents,
    /// Its mask, `[1, h, w]`.
    pub mask: Option<MaskKey>,
    /// Latents of its reference images.
    pub references: Vec<CachedLatents>,
    /// Which of [`Prepared::sources`] it is from.
    pub source: usize,
}

/// A dataset whose latents and embeddings are all in the cache.
#[derive(Debug, Clone)]
pub struct Prepared {
    /// The samples, in the dataset's order; an image that is trained at several sizes is as many samples.
    pub samples: Vec<Sample>,
    /// Where they are from.
    pub sources: Vec<Source>,
    /// Embeddings of the empty prompt, `[S, D]`: what a dropped caption is replaced by.
    pub empty_prompt: Tensor,
    /// What was left out, by the dataset and here.
    pub skipped: Vec<Skipped>,
    /// The cache.
    pub cache: Cache,
}

fn progress(on_notice: OnNotice, stage: &'static str, done: usize, total: usize) -> Result<()> {
    on_notice(Notice::Progress { stage, done, total })
}

fn warn(on_notice: OnNotice, code: &'static str, message: String) -> Result<()> {
    on_notice(Notice::Warning { code, message })
}

#[cfg(test)]
pub(crate) mod tests;
