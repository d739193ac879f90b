//! What turns images and captions into the tensors that are cached.

use flowtune_engine::Tensor;

use crate::error::Result;

/// Makes latents of images.
pub trait ImageEncoder {
    /// Images `[B, 3, H, W]`, f32 in −1..1 → `image_latents [B, 128, H/16, W/16]`, patchified and normalised.
    ///
    /// # Errors
    /// The encoder's.
    fn encode(&self, images: &Tensor) -> Result<Tensor>;

    /// Names the weights and the configuration: another encoder, another fingerprint.
    ///
    /// # Errors
    /// `IO` when the files cannot be read.
    fn fingerprint(&self) -> Result<String>;
}

/// Makes embeddings of captions.
pub trait CaptionEncoder {
    /// Caption → embeddings `[S, D]`.
    ///
    /// # Errors
    /// The encoder's.
    fn encode(&self, caption: &str) -> Result<Tensor>;

    /// S: tokens that a caption is padded or cut to.
    fn tokens(&self) -> usize;

    /// Names text encoder and tokenizer: another of either, another fingerprint.
    ///
    /// # Errors
    /// `IO` when the files cannot be read.
    fn fingerprint(&self) -> Result<String>;
}
