//! The VAE of FLUX.2: diffusers `autoencoder_kl_flux2.py`.

mod coder;
mod config;
mod latents;
mod layers;

use std::path::Path;

use flowtune_engine::{Device, Tensor};

use crate::error::{Result, layout_error};
use crate::weights::Weights;
use coder::{Decoder, Encoder};
pub use config::VaeConfig;
use latents::Statistics;
use layers::Conv;

/// Images to latents and back, in float32, without gradients. One sample is in flight at a time. It computes where its
/// weights are; images and latents come from and go to the host.
pub struct AutoencoderKLFlux2 {
    config: VaeConfig,
    encoder: Encoder,
    quant_conv: Option<Conv>,
    decoder: Decoder,
    post_quant_conv: Option<Conv>,
    statistics: Statistics,
    device: Device,
}

impl AutoencoderKLFlux2 {
    /// Builds the VAE from weights under diffusers' names.
    ///
    /// # Errors
    /// `WEIGHTS_MISSING`, `SHAPE_MISMATCH`; `CHECKPOINT_LAYOUT` for a configuration without levels.
    pub fn load(config: VaeConfig, weights: &Weights) -> Result<Self> {
        if config.block_out_channels.is_empty() || config.decoder_channels().is_empty() {
            let problem = "config.json must list block_out_channels; download it again";
            return Err(layout_error(Path::new(&weights.origin()), problem));
        }
        let latent = config.latent_channels;
        let pointwise = |name: &str, channels: usize| Conv::load(&weights.scoped(name), channels, channels, 1);
        let quant = || pointwise("quant_conv", 2 * latent);
        let post_quant = || pointwise("post_quant_conv", latent);
        Ok(Self {
            encoder: Encoder::load(&weights.scoped("encoder"), &config)?,
            quant_conv: config.use_quant_conv.then(quant).transpose()?,
            decoder: Decoder::load(&weights.scoped("decoder"), &config)?,
            post_quant_conv: config.use_post_quant_conv.then(post_quant).transpose()?,
            statistics: Statistics::load(&weights.scoped("bn"), latent, config.batch_norm_eps)?,
            device: weights.device().clone(),
            config,
        })
    }

    /// The configuration.
    pub fn config(&self) -> &VaeConfig {
        &self.config
    }

    /// Mode of the posterior: image `[batch, 3, height, width]` in −1..1 → `[batch, 32, height/8, width/8]`.
    /// Height and width must be multiples of 16, so that the latent divides into patches.
    ///
    /// # Errors
    /// `SHAPE_MISMATCH` for other images.
    pub fn encode(&self, image: &Tensor) -> Result<Tensor> {
        let multiple = 2 * self.config.downsampling();
        let fits = matches!(image.shape(), &[_, channels, height, width] if channels == self.config.in_channels
            && height.is_multiple_of(multiple) && width.is_multiple_of(multiple));
        if !fits {
            let expected = format!("[batch, {}, {multiple}·h, {multiple}·w]", self.config.in_channels);
            return Err(shape_error("encode", "image", expected, image));
        }
        self.each_sample(image, |image| {
            let moments = self.encoder.forward(image)?;
            let moments = match &self.quant_conv {
                Some(conv) => conv.forward(&moments)?,
                None => moments,
            };
            first_channels(&moments, self.config.latent_channels)
        })
    }

    /// Image of a latent: `[batch, 32, h, w]` → `[batch, 3, 8·h, 8·w]`, about −1..1, not clamped.
    ///
    /// # Errors
    /// `SHAPE_MISMATCH` for other latents.
    pub fn decode(&self, latent: &Tensor) -> Result<Tensor> {
        if latent.shape().len() != 4 || latent.dim(1) != self.config.latent_channels {
            let expected = format!("[batch, {}, h, w]", self.config.latent_channels);
            return Err(shape_error("decode", "latent", expected, latent));
        }
        self.each_sample(latent, |latent| match &self.post_quant_conv {
            Some(conv) => self.decoder.forward(&conv.forward(latent)?),
            None => self.decoder.forward(latent),
        })
    }

    /// What the transformer is trained on: mode `[batch, 32, h, w]` → 2×2 patches `[batch, 128, h/2, w/2]`
    /// (channel `c·4 + dy·2 + dx`), normalised with the running statistics of `bn`.
    ///
    /// # Errors
    /// `SHAPE_MISMATCH` for odd heights or widths and other numbers of channels.
    pub fn image_latents(&self, mode: &Tensor) -> Result<Tensor> {
        let channels = self.config.latent_channels;
        if mode.shape().len() != 4 || mode.dim(1) != channels || mode.dim(2) % 2 + mode.dim(3) % 2 > 0 {
            return Err(shape_error("image_latents", "mode", format!("[batch, {channels}, 2·h, 2·w]"), mode));
        }
        self.statistics.normalise(mode)
    }

    /// The inverse of [`Self::image_latents`]: `[batch, 128, h, w]` → `[batch, 32, 2·h, 2·w]`, for [`Self::decode`].
    ///
    /// # Errors
    /// `SHAPE_MISMATCH` for another number of channels.
    pub fn vae_latents(&self, image_latents: &Tensor) -> Result<Tensor> {
        let channels = 4 * self.config.latent_channels;
        if image_latents.shape().len() != 4 || image_latents.dim(1) != channels {
            let expected = format!("[batch, {channels}, h, w]");
            return Err(shape_error("vae_latents", "image_latents", expected, image_latents));
        }
        self.statistics.restore(image_latents)
    }

    /// f of one sample after the other, which bounds the memory for activations.
    fn each_sample(&self, x: &Tensor, f: impl Fn(&Tensor) -> Result<Tensor>) -> Result<Tensor> {
        let sample = |i| Ok(f(&x.rows(i, 1)?.to_device(&self.device)?)?.to_device(&x.device())?);
        let samples = (0..x.dim(0)).map(sample).collect::<Result<Vec<_>>>()?;
        Ok(Tensor::cat_rows(&samples)?)
    }
}

fn shape_error(op: &'static str, argument: &'static str, expected: String, got: &Tensor) -> crate::Error {
    flowtune_engine::Error::Shape { op, argument, expected, got: got.shape().to_vec() }.into()
}

/// The means among means and log-variances: `[1, 2·channels, h, w]` → `[1, channels, h, w]`.
fn first_channels(moments: &Tensor, channels: usize) -> Result<Tensor> {
    let (h, w) = (moments.dim(2), moments.dim(3));
    let planes = moments.reshape(&[moments.dim(1), h, w])?.rows(0, channels)?;
    Ok(planes.reshape(&[1, channels, h, w])?)
}

#[cfg(test)]
mod tests;
