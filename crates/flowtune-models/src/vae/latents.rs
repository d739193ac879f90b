//! Between the VAE's latents and the transformer's: 2×2 patches, normalised per channel.

use flowtune_engine::Tensor;

use crate::error::Result;
use crate::weights::Weights;

/// Height and width of a patch.
const PATCH: usize = 2;

/// Mean and deviation of each of the patches' channels over the VAE's training data.
pub(super) struct Statistics {
    pub(super) mean: Vec<f32>,
    pub(super) deviation: Vec<f32>,
}

impl Statistics {
    /// From `bn`, a batch norm without affine.
    pub(super) fn load(weights: &Weights, latent_channels: usize, eps: f64) -> Result<Self> {
        let channels = [latent_channels * PATCH * PATCH];
        let mean = weights.get("running_mean", &channels)?.to_f32_vec()?;
        let variance = weights.get("running_var", &channels)?.to_f32_vec()?;
        Ok(Self { mean, deviation: variance.iter().map(|v| (v + eps as f32).sqrt()).collect() })
    }

    /// `[batch, c, h, w]` → `[batch, 4c, h/2, w/2]`, channel `c·4 + dy·2 + dx`, minus mean, over deviation.
    pub(super) fn normalise(&self, latent: &Tensor) -> Result<Tensor> {
        let [batch, channels, height, width] = extents(latent, "[batch, channels, height, width]")?;
        let shape = [batch, channels * PATCH * PATCH, height / PATCH, width / PATCH];
        let mut out = vec![0f32; latent.len()];
        let x = latent.as_slice::<f32>()?;
        each_pixel(shape, |patched, plain, c| out[patched] = (x[plain] - self.mean[c]) / self.deviation[c]);
        Ok(Tensor::from_vec(out, &shape)?)
    }

    /// The inverse of [`Statistics::normalise`].
    pub(super) fn restore(&self, image_latents: &Tensor) -> Result<Tensor> {
        let shape = extents(image_latents, "[batch, 4·channels, height, width]")?;
        let mut out = vec![0f32; image_latents.len()];
        let x = image_latents.as_slice::<f32>()?;
        each_pixel(shape, |patched, plain, c| out[plain] = x[patched] * self.deviation[c] + self.mean[c]);
        let [batch, channels, height, width] = shape;
        Ok(Tensor::from_vec(out, &[batch, channels / (PATCH * PATCH), height * PATCH, width * PATCH])?)
    }
}

/// f(index among patches, index among plain latents, patch channel) for every element, `shape` being the
/// patches'.
fn each_pixel([batch, channels, height, width]: [usize; 4], mut f: impl FnMut(usize, usize, usize)) {
    for plane in 0..batch * channels {
        let (dy, dx) = (plane / PATCH % PATCH, plane % PATCH);
        let plain_plane = plane / (PATCH * PATCH) * height * width * PATCH * PATCH;
        for (y, x) in (0..height).flat_map(|y| (0..width).map(move |x| (y, x))) {
            let plain = plain_plane + (y * PATCH + dy) * width * PATCH + x * PATCH + dx;
            f((plane * height + y) * width + x, plain, plane % channels);
        }
    }
}

fn extents(x: &Tensor, expected: &str) -> Result<[usize; 4]> {
    let wrong = flowtune_engine::Error::Shape {
        op: "vae",
        argument: "latents",
        expected: expected.to_owned(),
        got: x.shape().to_vec(),
    };
    Ok(x.shape().try_into().map_err(|_| wrong)?)
}
