//! What an image needs: keys of what is cached, pixels of what is not. Made for many images at once.

use std::path::Path;

use flowtune_engine::Tensor;

use super::CachedLatents;
use crate::cache::{Cache, LatentKey, MaskKey};
use crate::dataset::Item;
use crate::error::{Error, Result};
use crate::image::{Picture, decode_mask, image_size, read};
use crate::size::{Size, Sizing};

/// Latents: there, or to be made of pixels `[3, height, width]`.
pub(super) enum Latents {
    Cached(CachedLatents),
    Missing(LatentKey, Tensor),
}

/// An image at one of its sizes.
pub(super) struct Planned {
    pub(super) latents: Latents,
    pub(super) mask: Option<MaskKey>,
    pub(super) references: Vec<Latents>,
}

/// Finds out what is cached, and decodes what is not.
pub(super) struct Planner<'a> {
    pub(super) cache: &'a Cache,
    pub(super) sizing: &'a Sizing,
    pub(super) fingerprint: String,
}

impl Planner<'_> {
    /// An image at each of its sizes; and messages on damaged entries.
    pub(super) fn plan(&self, item: &Item) -> Result<(Vec<Planned>, Vec<String>)> {
        let mut damaged = Vec::new();
        let bytes = read(&item.image)?;
        let size = image_size(&bytes, &item.image)?;
        let sizes = self.sizing.of(size);
        let latents = self.latents(&bytes, &item.image, &sizes, &mut damaged)?;
        let mut planned = Vec::new();
        for (target, latents) in sizes.iter().zip(latents) {
            let mask = item.mask.as_deref().map(|mask| self.mask(mask, size, *target, &mut damaged)).transpose()?;
            planned.push(Planned { latents, mask, references: Vec::new() });
        }
        let resolutions = self.sizing.resolutions_of(size);
        for path in &item.references {
            let bytes = read(path)?;
            let own = image_size(&bytes, path)?;
            // A reference keeps its own aspect, with the pixels of the image it belongs to.
            let sizes: Vec<_> = resolutions.iter().map(|&side| own.bucket(side)).collect();
            let latents = self.latents(&bytes, path, &sizes, &mut damaged)?;
            planned.iter_mut().zip(latents).for_each(|(planned, latents)| planned.references.push(latents));
        }
        Ok((planned, damaged))
    }

    /// Latents of an image file at some sizes; it is decoded once, if at all.
    fn latents(&self, bytes: &[u8], path: &Path, sizes: &[Size], damaged: &mut Vec<String>) -> Result<Vec<Latents>> {
        let mut picture: Option<Picture> = None;
        let mut out = Vec::new();
        for &size in sizes {
            let key = Cache::latent_key(bytes, &self.fingerprint, size);
            out.push(match usable(self.cache.latents(&key), damaged)? {
                Some(latents) => Latents::Cached(CachedLatents { key, shape: latents.shape().to_vec() }),
                None => {
                    let picture = match &mut picture {
                        Some(picture) => picture,
                        none => none.insert(Picture::decode(bytes, path)?),
                    };
                    Latents::Missing(key, picture.covering(size)?)
                }
            });
        }
        Ok(out)
    }

    fn mask(&self, path: &Path, image: Size, size: Size, damaged: &mut Vec<String>) -> Result<MaskKey> {
        let bytes = read(path)?;
        let key = Cache::mask_key(&bytes, image, size);
        if usable(self.cache.mask(&key), damaged)?.is_none() {
            self.cache.put_mask(&key, &decode_mask(&bytes, path, image, size)?)?;
        }
        Ok(key)
    }
}

/// The entry; none, and a message, when it is damaged.
fn usable(entry: Result<Option<Tensor>>, damaged: &mut Vec<String>) -> Result<Option<Tensor>> {
    match entry {
        Err(error @ Error::CacheStale { .. }) => {
            damaged.push(format!("{error}; it is made again"));
            Ok(None)
        }
        other => other,
    }
}
