//! Embeddings of captions and prompts.

use std::collections::HashMap;

use flowtune_engine::{DType, Tensor};

use super::{OnNotice, progress, warn};
use crate::cache::{Cache, TextKey};
use crate::encoder::CaptionEncoder;
use crate::error::{Error, Result};

/// Captions whose embeddings are in the cache, the empty prompt among them.
#[derive(Debug, Clone)]
pub struct Texts {
    keys: HashMap<String, TextKey>,
    cache: Cache,
}

/// Makes sure that the embeddings of all `captions` and of the empty prompt are in `cache`, whole, as `dtype`; each
/// distinct caption once. Damaged entries are made again, with a warning.
///
/// # Errors
/// `IO`; the encoder's; `on_notice`'s.
pub fn encode_captions<'a>(
    captions: impl IntoIterator<Item = &'a str>,
    encoder: &dyn CaptionEncoder,
    dtype: DType,
    cache: &Cache,
    on_notice: OnNotice,
) -> Result<Texts> {
    let fingerprint = encoder.fingerprint()?;
    let mut distinct: Vec<&str> = captions.into_iter().chain([""]).collect();
    distinct.sort_unstable();
    distinct.dedup();
    let mut keys = HashMap::new();
    for (done, &caption) in distinct.iter().enumerate() {
        progress(on_notice, "encoding captions", done, distinct.len())?;
        let key = Cache::text_key(caption, &fingerprint, encoder.tokens(), dtype);
        let known = match cache.text(&key) {
            Err(error @ Error::CacheStale { .. }) => {
                warn(on_notice, "CACHE_STALE", format!("{error}; it is made again"))?;
                false
            }
            entry => entry?.is_some(),
        };
        if !known {
            cache.put_text(&key, &encoder.encode(caption)?.to_dtype(dtype)?)?;
        }
        keys.insert(caption.to_owned(), key);
    }
    progress(on_notice, "encoding captions", distinct.len(), distinct.len())?;
    Ok(Texts { keys, cache: cache.clone() })
}

impl Texts {
    /// How many there are.
    #[allow(clippy::len_without_is_empty, reason = "the empty prompt is always there")]
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Where the embeddings of a caption are.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` for a caption that was not encoded.
    pub fn key(&self, caption: &str) -> Result<&TextKey> {
        self.keys.get(caption).ok_or_else(|| Error::InvalidArgument(format!("{caption:?} was not encoded")))
    }

    /// Embeddings `[S, D]` of a caption, f32.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` for a caption that was not encoded; `CACHE_STALE` when its entry vanished.
    pub fn embeddings(&self, caption: &str) -> Result<Tensor> {
        let key = self.key(caption)?;
        let gone = || Error::gone(self.cache.text_path(key));
        Ok(self.cache.text(key)?.ok_or_else(gone)?.to_dtype(DType::F32)?)
    }
}
