//! Encoder and decoder: levels of residual blocks with a change of scale between them.

use flowtune_engine::Tensor;

use super::config::VaeConfig;
use super::layers::{Conv, Mid, Norm, Resnet};
use crate::error::Result;
use crate::weights::Weights;

/// Residual blocks at one scale, then the convolution that changes the scale, if any.
struct Level {
    resnets: Vec<Resnet>,
    rescale: Option<Conv>,
}

impl Level {
    /// `rescale` names the convolution that follows; the last level has none.
    fn load(
        weights: &Weights,
        [inputs, outputs]: [usize; 2],
        count: usize,
        groups: usize,
        rescale: Option<&str>,
    ) -> Result<Self> {
        let resnet = |i: usize| {
            let inputs = if i == 0 { inputs } else { outputs };
            Resnet::load(&weights.scoped(&format!("resnets.{i}")), inputs, outputs, groups)
        };
        let resnets = (0..count).map(resnet).collect::<Result<_>>()?;
        let conv = |name: &str| Conv::load(&weights.scoped(name), outputs, outputs, 3);
        Ok(Self { resnets, rescale: rescale.map(conv).transpose()? })
    }

    fn resnets(&self, x: Tensor) -> Result<Tensor> {
        self.resnets.iter().try_fold(x, |x, resnet| resnet.forward(&x))
    }
}

/// All levels, from the channels of the first convolution on.
fn levels(
    weights: &Weights,
    prefix: &str,
    channels: &[usize],
    count: usize,
    groups: usize,
    rescale: &str,
) -> Result<Vec<Level>> {
    let mut inputs = channels[0];
    let mut levels = Vec::with_capacity(channels.len());
    for (i, &outputs) in channels.iter().enumerate() {
        let rescale = (i + 1 < channels.len()).then_some(rescale);
        let weights = weights.scoped(&format!("{prefix}.{i}"));
        levels.push(Level::load(&weights, [inputs, outputs], count, groups, rescale)?);
        inputs = outputs;
    }
    Ok(levels)
}

/// diffusers' `Encoder`.
pub(super) struct Encoder {
    conv_in: Conv,
    levels: Vec<Level>,
    mid: Mid,
    norm_out: Norm,
    conv_out: Conv,
}

impl Encoder {
    pub(super) fn load(weights: &Weights, c: &VaeConfig) -> Result<Self> {
        let channels = &c.block_out_channels;
        let (finest, coarsest) = (channels[0], channels[channels.len() - 1]);
        let groups = c.norm_num_groups;
        let rescale = "downsamplers.0.conv";
        Ok(Self {
            conv_in: Conv::load(&weights.scoped("conv_in"), c.in_channels, finest, 3)?,
            levels: levels(weights, "down_blocks", channels, c.layers_per_block, groups, rescale)?,
            mid: Mid::load(&weights.scoped("mid_block"), coarsest, groups, c.mid_block_add_attention)?,
            norm_out: Norm::load(&weights.scoped("conv_norm_out"), coarsest, groups)?,
            // Mean and log-variance.
            conv_out: Conv::load(&weights.scoped("conv_out"), coarsest, 2 * c.latent_channels, 3)?,
        })
    }

    pub(super) fn forward(&self, image: &Tensor) -> Result<Tensor> {
        let mut x = self.conv_in.forward(image)?;
        for level in &self.levels {
            x = level.resnets(x)?;
            if let Some(conv) = &level.rescale {
                x = conv.halve(&x)?;
            }
        }
        self.conv_out.forward(&self.norm_out.silu(&self.mid.forward(&x)?)?)
    }
}

/// diffusers' `Decoder`.
pub(super) struct Decoder {
    conv_in: Conv,
    mid: Mid,
    levels: Vec<Level>,
    norm_out: Norm,
    conv_out: Conv,
}

impl Decoder {
    pub(super) fn load(weights: &Weights, c: &VaeConfig) -> Result<Self> {
        let channels: Vec<usize> = c.decoder_channels().iter().rev().copied().collect();
        let (coarsest, finest) = (channels[0], channels[channels.len() - 1]);
        let groups = c.norm_num_groups;
        let rescale = "upsamplers.0.conv";
        Ok(Self {
            conv_in: Conv::load(&weights.scoped("conv_in"), c.latent_channels, coarsest, 3)?,
            mid: Mid::load(&weights.scoped("mid_block"), coarsest, groups, c.mid_block_add_attention)?,
            levels: levels(weights, "up_blocks", &channels, c.layers_per_block + 1, groups, rescale)?,
            norm_out: Norm::load(&weights.scoped("conv_norm_out"), finest, groups)?,
            conv_out: Conv::load(&weights.scoped("conv_out"), finest, c.out_channels, 3)?,
        })
    }

    pub(super) fn forward(&self, latent: &Tensor) -> Result<Tensor> {
        let mut x = self.mid.forward(&self.conv_in.forward(latent)?)?;
        for level in &self.levels {
            x = level.resnets(x)?;
            if let Some(conv) = &level.rescale {
                x = conv.double(&x)?;
            }
        }
        self.conv_out.forward(&self.norm_out.silu(&x)?)
    }
}
