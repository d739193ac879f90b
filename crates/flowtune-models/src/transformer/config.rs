//! Geometry of a FLUX.2 transformer.

use serde::{Deserialize, Serialize};

/// `transformer/config.json` of a diffusers folder; defaults are FLUX.2 dev's.
/// Source: diffusers `transformer_flux2.py`, `Flux2Transformer2DModel.__init__`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default)]
pub struct Flux2Config {
    /// Latent channels after the 2×2 patchify.
    pub in_channels: usize,
    /// Channels of the prediction; `in_channels` when none.
    pub out_channels: Option<usize>,
    /// Double-stream blocks.
    pub num_layers: usize,
    /// Single-stream blocks.
    pub num_single_layers: usize,
    /// Width of a head.
    pub attention_head_dim: usize,
    /// Heads.
    pub num_attention_heads: usize,
    /// Width of the text embeddings.
    pub joint_attention_dim: usize,
    /// Width of the sinusoid of timestep and guidance.
    pub timestep_guidance_channels: usize,
    /// Hidden width of the feed-forward layers, in model widths.
    pub mlp_ratio: f64,
    /// Head channels per position axis (t, h, w, l).
    pub axes_dims_rope: Vec<usize>,
    /// Base of the rotary frequencies.
    pub rope_theta: f64,
    /// Added to variances.
    pub eps: f64,
    /// Whether the model is told the guidance scale (dev).
    pub guidance_embeds: bool,
}

impl Default for Flux2Config {
    fn default() -> Self {
        Self {
            in_channels: 128,
            out_channels: None,
            num_layers: 8,
            num_single_layers: 48,
            attention_head_dim: 128,
            num_attention_heads: 48,
            joint_attention_dim: 15_360,
            timestep_guidance_channels: 256,
            mlp_ratio: 3.0,
            axes_dims_rope: vec![32; 4],
            rope_theta: 2000.0,
            eps: 1e-6,
            guidance_embeds: true,
        }
    }
}

impl Flux2Config {
    /// Model width: heads · head_dim.
    pub fn dim(&self) -> usize {
        self.num_attention_heads * self.attention_head_dim
    }

    /// Hidden width of the feed-forward layers.
    pub fn mlp_dim(&self) -> usize {
        (self.dim() as f64 * self.mlp_ratio) as usize
    }

    /// Channels of the prediction.
    pub fn prediction_channels(&self) -> usize {
        self.out_channels.unwrap_or(self.in_channels)
    }
}
