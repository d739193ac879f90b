//! `flowtune_models::vae::AutoencoderKLFlux2` over ghosts: float32, forward only, one image at a time.

use flowtune_models::vae::VaeConfig;

use super::ledger::{Component, Ghost, Ledger};
use super::ops::multiply;

/// A VAE in memory.
pub(crate) struct Vae<'a> {
    ledger: Ledger,
    config: &'a VaeConfig,
    _weights: Ghost,
}

/// An image or what becomes of it: channels, height and width.
struct Planes {
    ghost: Ghost,
    channels: usize,
    height: usize,
    width: usize,
}

impl<'a> Vae<'a> {
    /// Takes room for its weights.
    pub(crate) fn load(ledger: &Ledger, config: &'a VaeConfig, parameters: usize) -> Self {
        let weights = ledger.tensor(Component::Vae, parameters, 4);
        Self { ledger: ledger.clone(), config, _weights: weights }
    }

    /// An image of these pixels to latents.
    pub(crate) fn encode(&self, width: usize, height: usize) {
        let c = self.config;
        let image = self.planes(c.in_channels, height, width);
        let copy = self.planes(c.in_channels, height, width);
        let mut x = self.conv(&copy, c.block_out_channels[0], 3);
        let last = c.block_out_channels.len() - 1;
        for (level, &channels) in c.block_out_channels.iter().enumerate() {
            for _ in 0..c.layers_per_block {
                x = self.resnet(&x, channels);
            }
            if level < last {
                let halved = self.planes(channels, x.height / 2, x.width / 2);
                self.count(&halved, channels, 3);
                x = halved;
            }
        }
        let x = self.mid(&x);
        let normed = self.like(&x);
        self.conv(&normed, 2 * c.latent_channels, 3);
        drop(image);
    }

    /// Latents of an image of these pixels, back to it; what comes back is written as a PNG.
    pub(crate) fn decode(&self, width: usize, height: usize) {
        let c = self.config;
        let channels = c.decoder_block_out_channels.as_ref().unwrap_or(&c.block_out_channels);
        let scale = c.downsampling();
        let latents = self.planes(c.latent_channels, height / scale, width / scale);
        let mut x = self.conv(&latents, channels[channels.len() - 1], 3);
        x = self.mid(&x);
        for (level, &channels) in channels.iter().rev().enumerate() {
            for _ in 0..=c.layers_per_block {
                x = self.resnet(&x, channels);
            }
            if level + 1 < c.block_out_channels.len() {
                let doubled = self.planes(channels, 2 * x.height, 2 * x.width);
                x = {
                    let _old = x;
                    self.conv(&doubled, channels, 3)
                };
            }
        }
        let normed = self.like(&x);
        self.conv(&normed, c.out_channels, 3);
    }

    fn planes(&self, channels: usize, height: usize, width: usize) -> Planes {
        let ghost = self.ledger.tensor(Component::Work, channels * height * width, 4);
        Planes { ghost, channels, height, width }
    }

    fn like(&self, x: &Planes) -> Planes {
        self.planes(x.channels, x.height, x.width)
    }

    fn conv(&self, x: &Planes, outputs: usize, kernel: usize) -> Planes {
        let y = self.planes(outputs, x.height, x.width);
        self.count(&y, x.channels, kernel);
        y
    }

    fn count(&self, y: &Planes, inputs: usize, kernel: usize) {
        multiply(&self.ledger, y.height * y.width, inputs * kernel * kernel, y.channels, false);
    }

    fn resnet(&self, x: &Planes, outputs: usize) -> Planes {
        let h = {
            let normed = self.like(x);
            self.conv(&normed, outputs, 3)
        };
        let _shortcut = (x.channels != outputs).then(|| self.conv(x, outputs, 1));
        let normed = self.like(&h);
        self.conv(&normed, outputs, 3)
    }

    fn mid(&self, x: &Planes) -> Planes {
        let x = self.resnet(x, x.channels);
        let x = match self.config.mid_block_add_attention {
            true => self.attention(&x),
            false => x,
        };
        self.resnet(&x, x.channels)
    }

    /// One head over all pixels.
    fn attention(&self, x: &Planes) -> Planes {
        let pixels = x.height * x.width;
        let _tokens = {
            let _normed = self.like(x);
            self.like(x)
        };
        let _heads = [(); 3].map(|()| self.like(x));
        let _attended = self.like(x);
        multiply(&self.ledger, pixels, x.channels, 4 * x.channels, false);
        multiply(&self.ledger, pixels, 2 * pixels, x.channels, false);
        let out = self.like(x);
        debug_assert_eq!(out.ghost.elements(), x.channels * pixels);
        let _image = self.like(x);
        self.like(x)
    }
}
