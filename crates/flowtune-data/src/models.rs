//! The encoders of a FLUX.2 model folder, loaded when the first image or caption is not in the cache.

use std::cell::OnceCell;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use flowtune_engine::Tensor;
use flowtune_models::ModelFolder;
use flowtune_models::text::{PromptTokenizer, TextEncoder};
use flowtune_models::vae::AutoencoderKLFlux2;
use sha2::{Digest, Sha256};

use crate::cache::hex;
use crate::encoder::{CaptionEncoder, ImageEncoder};
use crate::error::{Error, Result};

/// The VAE of a model folder.
pub struct VaeEncoder {
    folder: ModelFolder,
    vae: OnceCell<AutoencoderKLFlux2>,
}

impl VaeEncoder {
    /// Encoder with the VAE in `folder`; nothing is loaded yet.
    pub fn new(folder: &ModelFolder) -> Self {
        Self { folder: folder.clone(), vae: OnceCell::new() }
    }

    /// The VAE, loaded at the first call.
    ///
    /// # Errors
    /// As [`ModelFolder::vae`].
    pub fn vae(&self) -> Result<&AutoencoderKLFlux2> {
        if self.vae.get().is_none() {
            drop(self.vae.set(self.folder.vae()?));
        }
        self.vae.get().ok_or_else(|| Error::InvalidArgument("the VAE is gone".into()))
    }
}

impl ImageEncoder for VaeEncoder {
    fn encode(&self, images: &Tensor) -> Result<Tensor> {
        let vae = self.vae()?;
        Ok(vae.image_latents(&vae.encode(images)?)?)
    }

    fn fingerprint(&self) -> Result<String> {
        fingerprint(&[self.folder.component("vae")?])
    }
}

/// The text encoder and the tokenizer of a model folder.
pub struct TextCaptionEncoder {
    folder: ModelFolder,
    tokenizer: PromptTokenizer,
    tokens: usize,
    encoder: OnceCell<TextEncoder>,
}

impl TextCaptionEncoder {
    /// Encoder with what is in `folder`; captions become `tokens` tokens, or as many as the model's pipeline uses. Only
    /// the tokenizer is loaded yet.
    ///
    /// # Errors
    /// As [`ModelFolder::tokenizer`].
    pub fn new(folder: &ModelFolder, tokens: Option<usize>) -> Result<Self> {
        let tokenizer = folder.tokenizer()?;
        let tokens = tokens.unwrap_or_else(|| tokenizer.max_tokens());
        Ok(Self { folder: folder.clone(), tokenizer, tokens, encoder: OnceCell::new() })
    }

    fn encoder(&self) -> Result<&TextEncoder> {
        if self.encoder.get().is_none() {
            drop(self.encoder.set(self.folder.text_encoder()?));
        }
        self.encoder.get().ok_or_else(|| Error::InvalidArgument("the text encoder is gone".into()))
    }
}

impl CaptionEncoder for TextCaptionEncoder {
    fn encode(&self, caption: &str) -> Result<Tensor> {
        let prompts = self.tokenizer.encode(&[caption], Some(self.tokens))?;
        let embeddings = self.encoder()?.text_embeddings(&prompts.input_ids, &prompts.attention_mask)?;
        Ok(embeddings.reshape(&embeddings.shape()[1..])?)
    }

    fn tokens(&self) -> usize {
        self.tokens
    }

    fn fingerprint(&self) -> Result<String> {
        fingerprint(&[self.folder.component("text_encoder")?, self.folder.component("tokenizer")?])
    }
}

/// Files up to this size are hashed whole.
const WHOLE: u64 = 64 << 20;
/// Of larger ones, the beginning (with the safetensors header) and this many pieces of [`PIECE`] bytes: weights that
/// were trained on differ everywhere, and reading tens of gigabytes at every start would be slow.
const PIECES: u64 = 256;
const PIECE: u64 = 64 << 10;

/// Hash of the names and the content of the files in `folders`. Copies of a model have the same.
fn fingerprint(folders: &[PathBuf]) -> Result<String> {
    let mut hasher = Sha256::new();
    for folder in folders {
        let mut files = Vec::new();
        for entry in std::fs::read_dir(folder).map_err(Error::io(folder, "read"))? {
            files.push(entry.map_err(Error::io(folder, "read"))?.path());
        }
        files.sort();
        for file in files.iter().filter(|file| file.is_file()) {
            hasher.update(file.file_name().unwrap_or_default().as_encoded_bytes());
            hash_file(&mut hasher, file).map_err(Error::io(file, "read"))?;
        }
    }
    Ok(hex(&hasher.finalize()))
}

fn hash_file(hasher: &mut Sha256, path: &Path) -> std::io::Result<()> {
    let mut file = File::open(path)?;
    let size = file.metadata()?.len();
    hasher.update(size.to_le_bytes());
    let (pieces, length) = if size <= WHOLE { (size.div_ceil(PIECE), PIECE) } else { (PIECES, PIECE) };
    let mut buffer = Vec::with_capacity(length as usize);
    for i in 0..pieces {
        // Whole files piece by piece, larger ones evenly spread, the last piece at the end.
        let start = if size <= WHOLE { i * PIECE } else { (size - PIECE) / (PIECES - 1) * i };
        file.seek(SeekFrom::Start(start))?;
        buffer.clear();
        (&mut file).take(length).read_to_end(&mut buffer)?;
        hasher.update(&buffer);
    }
    Ok(())
}

#[cfg(test)]
mod tests;
