//! Latents by image, embeddings by caption and masks, as safetensors files named by a hash of all that they depend on:
//! when images, captions or models change, other files are used, and no entry is ever out of date.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use flowtune_engine::{DType, Tensor};
use flowtune_models::{read_metadata, read_safetensors, save_safetensors};
use half::bf16;
use sha2::{Digest, Sha256};

use crate::error::{Error, Result};
use crate::image::PREPROCESSING;
use crate::size::Size;

/// Version of how captions become tokens; part of the keys.
const PROMPTS: u32 = 2;

/// Name of the only tensor of an entry.
const LATENTS: &str = "image_latents";
const TEXT: &str = "text_embeddings";
const MASK: &str = "loss_mask";
/// Metadata keys of the hash of the tensor's bytes, and of the entry's own name: a file that was renamed, or is from
/// another place, is not what its name says.
const CHECKSUM: &str = "sha256";
const KEY: &str = "key";

/// Name of an image's latents in a cache.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct LatentKey(String);

/// Name of a caption's embeddings in a cache.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct TextKey(String);

/// Name of a mask in a cache.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct MaskKey(String);

/// A cache folder. Several runs, even at once, may share it.
#[derive(Debug, Clone)]
pub struct Cache {
    dir: PathBuf,
}

impl Cache {
    /// Opens the cache in `dir`, which is made if it is not there.
    ///
    /// # Errors
    /// `IO`.
    pub fn open(dir: &Path) -> Result<Self> {
        for kind in [LATENTS, TEXT, MASK] {
            let dir = dir.join(kind);
            fs::create_dir_all(&dir).map_err(Error::io(&dir, "made"))?;
        }
        Ok(Self { dir: dir.to_path_buf() })
    }

    /// The folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Key of the latents of an image file with these `bytes`.
    pub fn latent_key(bytes: &[u8], encoder_fingerprint: &str, size: Size) -> LatentKey {
        let shape = format!("{}x{} v{PREPROCESSING}", size.width, size.height);
        LatentKey(hash(&[bytes, encoder_fingerprint.as_bytes(), shape.as_bytes()]))
    }

    /// Key of the embeddings of `caption`, kept as `dtype`.
    pub fn text_key(caption: &str, encoder_fingerprint: &str, tokens: usize, dtype: DType) -> TextKey {
        let form = format!("{tokens} {dtype:?} v{PROMPTS}");
        TextKey(hash(&[caption.as_bytes(), encoder_fingerprint.as_bytes(), form.as_bytes()]))
    }

    /// Key of the mask that a file with these `bytes` makes for an image that is `image` large and trained at `size`.
    pub fn mask_key(bytes: &[u8], image: Size, size: Size) -> MaskKey {
        let form = format!("{image:?} {size:?} v{PREPROCESSING}");
        MaskKey(hash(&[bytes, form.as_bytes()]))
    }

    /// Latents `[C, h, w]`, or none if they are not cached.
    ///
    /// # Errors
    /// `CACHE_STALE` when the entry is damaged.
    pub fn latents(&self, key: &LatentKey) -> Result<Option<Tensor>> {
        read(&self.latent_path(key), &key.0, LATENTS, 3)
    }

    /// Embeddings `[S, D]`, in the type they were stored in, or none if they are not cached.
    ///
    /// # Errors
    /// `CACHE_STALE` when the entry is damaged.
    pub fn text(&self, key: &TextKey) -> Result<Option<Tensor>> {
        read(&self.text_path(key), &key.0, TEXT, 2)
    }

    /// Mask `[1, h, w]`, or none if it is not cached.
    ///
    /// # Errors
    /// `CACHE_STALE` when the entry is damaged.
    pub fn mask(&self, key: &MaskKey) -> Result<Option<Tensor>> {
        read(&self.mask_path(key), &key.0, MASK, 3)
    }

    /// Stores latents `[C, h, w]`.
    ///
    /// # Errors
    /// `IO`.
    pub fn put_latents(&self, key: &LatentKey, latents: &Tensor) -> Result<()> {
        write(&self.latent_path(key), &key.0, LATENTS, latents)
    }

    /// Stores embeddings `[S, D]`.
    ///
    /// # Errors
    /// `IO`.
    pub fn put_text(&self, key: &TextKey, embeddings: &Tensor) -> Result<()> {
        write(&self.text_path(key), &key.0, TEXT, embeddings)
    }

    /// Stores a mask `[1, h, w]`.
    ///
    /// # Errors
    /// `IO`.
    pub fn put_mask(&self, key: &MaskKey, mask: &Tensor) -> Result<()> {
        write(&self.mask_path(key), &key.0, MASK, mask)
    }

    pub(crate) fn latent_path(&self, key: &LatentKey) -> PathBuf {
        self.dir.join(LATENTS).join(format!("{}.safetensors", key.0))
    }

    pub(crate) fn text_path(&self, key: &TextKey) -> PathBuf {
        self.dir.join(TEXT).join(format!("{}.safetensors", key.0))
    }

    pub(crate) fn mask_path(&self, key: &MaskKey) -> PathBuf {
        self.dir.join(MASK).join(format!("{}.safetensors", key.0))
    }
}

fn read(path: &Path, key: &str, name: &str, rank: usize) -> Result<Option<Tensor>> {
    if !path.exists() {
        return Ok(None);
    }
    let stale = |reason: String| Error::CacheStale { path: path.to_path_buf(), reason };
    let mut tensors = read_safetensors(path).map_err(|e| stale(e.to_string()))?;
    let metadata = read_metadata(path).map_err(|e| stale(e.to_string()))?;
    let known = |t: &Tensor| matches!(t.dtype(), DType::F32 | DType::BF16) && t.shape().len() == rank;
    let tensor = tensors.remove(name).filter(known);
    let tensor = tensor.ok_or_else(|| stale(format!("holds no {name} of rank {rank}")))?;
    if metadata.get(KEY).map(String::as_str) != Some(key) {
        return Err(stale("was made of something else".into()));
    }
    if metadata.get(CHECKSUM) != Some(&checksum(&tensor)?) {
        return Err(stale("its content does not match its checksum".into()));
    }
    Ok(Some(tensor))
}

fn write(path: &Path, key: &str, name: &str, tensor: &Tensor) -> Result<()> {
    let metadata = HashMap::from([(CHECKSUM.to_owned(), checksum(tensor)?), (KEY.to_owned(), key.to_owned())]);
    Ok(save_safetensors(path, &[(name.to_owned(), tensor.clone())], Some(metadata))?)
}

fn checksum(tensor: &Tensor) -> Result<String> {
    let bytes: &[u8] = match tensor.dtype() {
        DType::BF16 => bytemuck::cast_slice(tensor.as_slice::<bf16>()?),
        _ => bytemuck::cast_slice(tensor.as_slice::<f32>()?),
    };
    Ok(hex(&Sha256::digest(bytes)))
}

/// SHA-256 of `parts`, each after its length, so that no two lists of parts are alike.
fn hash(parts: &[&[u8]]) -> String {
    let mut hasher = Sha256::new();
    for part in parts {
        hasher.update((part.len() as u64).to_le_bytes());
        hasher.update(part);
    }
    hex(&hasher.finalize())
}

/// Lower-case hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_come_back_and_depend_on_everything() {
        let tmp = tempfile::tempdir().unwrap();
        let cache = Cache::open(tmp.path()).unwrap();
        let size = Size { width: 32, height: 16 };
        let key = Cache::latent_key(b"image", "vae", size);
        assert!(cache.latents(&key).unwrap().is_none());
        let latents = Tensor::from_vec(vec![1f32, -2.5, 3.0, 4.0], &[2, 1, 2]).unwrap();
        cache.put_latents(&key, &latents).unwrap();
        let back = cache.latents(&key).unwrap().unwrap();
        assert_eq!((back.shape(), back.to_f32_vec().unwrap()), (latents.shape(), latents.to_f32_vec().unwrap()));
        for other in [
            Cache::latent_key(b"imagf", "vae", size),
            Cache::latent_key(b"image", "vaf", size),
            Cache::latent_key(b"image", "vae", Size { width: 16, height: 32 }),
            Cache::latent_key(b"imagev", "ae", size),
        ] {
            assert_ne!(other, key);
        }
        let text = |caption, tokens, dtype| Cache::text_key(caption, "e", tokens, dtype);
        let key = text("a", 8, DType::F32);
        assert!(key != text("a", 9, DType::F32) && key != text("b", 8, DType::F32) && key != text("a", 8, DType::BF16));
        let bfloat16 = Tensor::full(0.5f32, &[2, 3]).to_dtype(DType::BF16).unwrap();
        cache.put_text(&key, &bfloat16).unwrap();
        let back = cache.text(&key).unwrap().unwrap();
        assert_eq!((back.dtype(), back.to_f32_vec().unwrap()), (DType::BF16, vec![0.5; 6]));
    }

    #[test]
    fn damaged_entries_are_stale() {
        let tmp = tempfile::tempdir().unwrap();
        let cache = Cache::open(tmp.path()).unwrap();
        let key = Cache::text_key("a cat", "encoder", 2, DType::F32);
        let path = cache.text_path(&key);
        cache.put_text(&key, &Tensor::full(1f32, &[2, 3])).unwrap();
        let whole = fs::read(&path).unwrap();
        let mut flipped = whole.clone();
        *flipped.last_mut().unwrap() ^= 1;
        for bytes in [&whole[..whole.len() - 1], &flipped, b"", b"junk that is longer than eight bytes"] {
            fs::write(&path, bytes).unwrap();
            let error = cache.text(&key).unwrap_err();
            assert_eq!(error.code(), "CACHE_STALE", "{error}");
            assert!(error.to_string().contains(path.to_str().unwrap()), "{error}");
        }
        // Whole, but another caption's.
        let other = Cache::text_key("a dog", "encoder", 2, DType::F32);
        cache.put_text(&other, &Tensor::full(1f32, &[2, 3])).unwrap();
        fs::rename(cache.text_path(&other), &path).unwrap();
        assert!(cache.text(&key).unwrap_err().to_string().contains("something else"));
    }
}
