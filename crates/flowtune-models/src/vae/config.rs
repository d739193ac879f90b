//! Configuration of the VAE.

use serde::Deserialize;

/// What `vae/config.json` says; keys that do not matter for inference are ignored. Defaults are FLUX.2's.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default)]
pub struct VaeConfig {
    /// Channels of an image.
    pub in_channels: usize,
    /// Channels of a decoded image.
    pub out_channels: usize,
    /// Channels per level, finest first. Each level but the last halves height and width.
    pub block_out_channels: Vec<usize>,
    /// The decoder's, where they differ.
    pub decoder_block_out_channels: Option<Vec<usize>>,
    /// Residual blocks per level of the encoder; the decoder has one more.
    pub layers_per_block: usize,
    /// Channels of the latent.
    pub latent_channels: usize,
    /// Groups of every group norm.
    pub norm_num_groups: usize,
    /// Whether a 1×1 convolution follows the encoder.
    pub use_quant_conv: bool,
    /// Whether a 1×1 convolution precedes the decoder.
    pub use_post_quant_conv: bool,
    /// Whether the coarsest level attends over all pixels.
    pub mid_block_add_attention: bool,
    /// Added to the variance when latents are normalised.
    pub batch_norm_eps: f64,
}

impl Default for VaeConfig {
    fn default() -> Self {
        Self {
            in_channels: 3,
            out_channels: 3,
            block_out_channels: vec![128, 256, 512, 512],
            decoder_block_out_channels: None,
            layers_per_block: 2,
            latent_channels: 32,
            norm_num_groups: 32,
            use_quant_conv: true,
            use_post_quant_conv: true,
            mid_block_add_attention: true,
            batch_norm_eps: 1e-4,
        }
    }
}

impl VaeConfig {
    /// Pixels per latent pixel along height or width: 8.
    pub fn downsampling(&self) -> usize {
        1 << self.block_out_channels.len().saturating_sub(1)
    }

    pub(super) fn decoder_channels(&self) -> &[usize] {
        self.decoder_block_out_channels.as_ref().unwrap_or(&self.block_out_channels)
    }
}
