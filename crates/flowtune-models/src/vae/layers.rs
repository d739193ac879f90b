//! Layers of the VAE, named as in diffusers' `vae.py`, `resnet.py` and `attention_processor.py`.

use flowtune_engine::ops::causal_attention::full_attention;
use flowtune_engine::ops::conv::{Padding, conv2d};
use flowtune_engine::ops::group_norm::{group_norm, group_norm_silu};
use flowtune_engine::ops::layout::{pack_latents, unpack_latents};
use flowtune_engine::ops::linear::linear_bias;
use flowtune_engine::ops::upsample::upsample_nearest_2x;
use flowtune_engine::{Tape, Tensor, Var};

use crate::error::Result;
use crate::weights::Weights;

/// diffusers' constant for every group norm of the VAE.
const NORM_EPS: f64 = 1e-6;

pub(super) struct Conv {
    weight: Tensor,
    bias: Tensor,
}

impl Conv {
    pub(super) fn load(weights: &Weights, inputs: usize, outputs: usize, kernel: usize) -> Result<Self> {
        let weight = weights.get("weight", &[outputs, inputs, kernel, kernel])?;
        Ok(Self { weight, bias: weights.get("bias", &[outputs])? })
    }

    /// Same height and width: half a kernel of zeros around.
    pub(super) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.forward_onto(x, None)
    }

    /// [`Conv::forward`] plus `residual`.
    fn forward_onto(&self, x: &Tensor, residual: Option<&Tensor>) -> Result<Tensor> {
        let padding = Padding::all(self.weight.dim(2) / 2);
        Ok(conv2d(x, &self.weight, Some(&self.bias), residual, 1, padding)?)
    }

    /// Half the height and width; `Downsample2D` pads only below and on the right.
    pub(super) fn halve(&self, x: &Tensor) -> Result<Tensor> {
        let padding = Padding { bottom: 1, right: 1, ..Padding::default() };
        Ok(conv2d(x, &self.weight, Some(&self.bias), None, 2, padding)?)
    }

    /// Twice the height and width.
    pub(super) fn double(&self, x: &Tensor) -> Result<Tensor> {
        self.forward(&upsample_nearest_2x(x)?)
    }
}

pub(super) struct Norm {
    weight: Tensor,
    bias: Tensor,
    groups: usize,
}

impl Norm {
    pub(super) fn load(weights: &Weights, channels: usize, groups: usize) -> Result<Self> {
        let (weight, bias) = (weights.get("weight", &[channels])?, weights.get("bias", &[channels])?);
        Ok(Self { weight, bias, groups })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        Ok(group_norm(x, &self.weight, &self.bias, self.groups, NORM_EPS)?)
    }

    pub(super) fn silu(&self, x: &Tensor) -> Result<Tensor> {
        Ok(group_norm_silu(x, &self.weight, &self.bias, self.groups, NORM_EPS)?)
    }
}

/// `ResnetBlock2D` without a time embedding.
pub(super) struct Resnet {
    norm1: Norm,
    conv1: Conv,
    norm2: Norm,
    conv2: Conv,
    shortcut: Option<Conv>,
}

impl Resnet {
    pub(super) fn load(weights: &Weights, inputs: usize, outputs: usize, groups: usize) -> Result<Self> {
        let shortcut = || Conv::load(&weights.scoped("conv_shortcut"), inputs, outputs, 1);
        Ok(Self {
            norm1: Norm::load(&weights.scoped("norm1"), inputs, groups)?,
            conv1: Conv::load(&weights.scoped("conv1"), inputs, outputs, 3)?,
            norm2: Norm::load(&weights.scoped("norm2"), outputs, groups)?,
            conv2: Conv::load(&weights.scoped("conv2"), outputs, outputs, 3)?,
            shortcut: (inputs != outputs).then(shortcut).transpose()?,
        })
    }

    pub(super) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let h = self.conv1.forward(&self.norm1.silu(x)?)?;
        let shortcut = self.shortcut.as_ref().map(|shortcut| shortcut.forward(x)).transpose()?;
        self.conv2.forward_onto(&self.norm2.silu(&h)?, Some(shortcut.as_ref().unwrap_or(x)))
    }
}

/// `Attention` with one head over all pixels.
struct PixelAttention {
    norm: Norm,
    query: Affine,
    key: Affine,
    value: Affine,
    out: Affine,
}

impl PixelAttention {
    fn load(weights: &Weights, channels: usize, groups: usize) -> Result<Self> {
        let affine = |name: &str| Affine::load(&weights.scoped(name), channels);
        Ok(Self {
            norm: Norm::load(&weights.scoped("group_norm"), channels, groups)?,
            query: affine("to_q")?,
            key: affine("to_k")?,
            value: affine("to_v")?,
            out: affine("to_out.0")?,
        })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let (batch, channels, height, width) = (x.dim(0), x.dim(1), x.dim(2), x.dim(3));
        let tokens = pack_latents(&self.norm.forward(x)?)?;
        let head = |affine: &Affine| -> Result<Tensor> {
            Ok(affine.forward(&tokens)?.reshape(&[batch, height * width, 1, channels])?)
        };
        let attended = full_attention(&head(&self.query)?, &head(&self.key)?, &head(&self.value)?)?;
        add(x, &unpack_latents(&self.out.forward(&attended)?, height, width)?)
    }
}

struct Affine {
    weight: Tensor,
    bias: Tensor,
}

impl Affine {
    fn load(weights: &Weights, channels: usize) -> Result<Self> {
        let weight = weights.get("weight", &[channels, channels])?;
        Ok(Self { weight, bias: weights.get("bias", &[channels])? })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        Ok(linear_bias(x, &self.weight, Some(&self.bias))?)
    }
}

/// `UNetMidBlock2D`: two residual blocks around an attention.
pub(super) struct Mid {
    first: Resnet,
    attention: Option<PixelAttention>,
    second: Resnet,
}

impl Mid {
    pub(super) fn load(weights: &Weights, channels: usize, groups: usize, attention: bool) -> Result<Self> {
        let attend = || PixelAttention::load(&weights.scoped("attentions.0"), channels, groups);
        Ok(Self {
            first: Resnet::load(&weights.scoped("resnets.0"), channels, channels, groups)?,
            attention: attention.then(attend).transpose()?,
            second: Resnet::load(&weights.scoped("resnets.1"), channels, channels, groups)?,
        })
    }

    pub(super) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let mut x = self.first.forward(x)?;
        if let Some(attention) = &self.attention {
            x = attention.forward(&x)?;
        }
        self.second.forward(&x)
    }
}

fn add(x: &Tensor, y: &Tensor) -> Result<Tensor> {
    let sum = Tape::inference().add(&Var::constant(x.clone()), &Var::constant(y.clone()))?;
    Ok(sum.into_tensor())
}
