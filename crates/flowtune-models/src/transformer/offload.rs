//! Which weights stay on a card that is too small for all of them.

use flowtune_engine::{DType, Device, NF4_BLOCK};
use serde::{Deserialize, Serialize};

use super::{Flux2Config, Flux2Transformer};
use crate::error::Result;
use crate::precision::{Precision, is_of_block};
use crate::weights::Weights;

/// Whether weights of blocks rest in the host's memory and come to the card for each product, the next one while this one is
/// multiplied. The processor has its weights where it computes: there it means nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Offload {
    /// As many as the card has no room for.
    #[default]
    Auto,
    /// None.
    None,
    /// All of them.
    Blocks,
}

impl Offload {
    /// Bytes of a card's memory that blocks may take.
    fn room(self, device: &Device) -> Result<f64> {
        // What else a step needs: activations, adapters, their moments.
        const FOR_THE_STEP: f64 = 0.25;
        const AT_LEAST: f64 = 4e9;
        Ok(match (self, device.card()?) {
            (Self::Blocks, _) => 0.0,
            (Self::Auto, Some(card)) => {
                let available = card.available_memory as f64;
                (available - AT_LEAST.max(FOR_THE_STEP * available)).max(0.0)
            }
            _ => f64::INFINITY,
        })
    }
}

impl Flux2Transformer {
    /// As [`Flux2Transformer::load`] with the weights of blocks where `offload` says; those that are trained stay on the device.
    ///
    /// # Errors
    /// As [`Flux2Transformer::load`].
    pub fn load_offloaded(
        config: Flux2Config,
        weights: &Weights,
        precision: Precision,
        offload: Offload,
    ) -> Result<Self> {
        let room = offload.room(weights.device())?;
        if precision.trainable || room.is_infinite() || weights.device().is_cpu() {
            return Self::load(config, weights, precision);
        }
        let of_blocks = |name: &str, shape: &[usize]| {
            (shape.len() == 2 && is_of_block(name)).then(|| bytes(precision, name, shape))
        };
        let outline = Self::outline(config.clone())?.1;
        let all: f64 = outline.iter().filter_map(|weight| of_blocks(&weight.name, &weight.shape)).sum();
        let (mut spread, host) = (Spread::new(room / all.max(1.0)), weights.on(&Device::cpu()));
        let source = &mut |name: &str, shape: &[usize]| {
            let stays = of_blocks(name, shape).is_none_or(|bytes| spread.stays(bytes));
            let from = if stays { weights } else { &host };
            from.get_as(name, shape, precision.weight(name, shape))
        };
        Ok(Self { compute: Some(precision.compute()), ..Self::build(config, source)? })
    }
}

fn bytes(precision: Precision, name: &str, shape: &[usize]) -> f64 {
    let elements = shape.iter().product::<usize>();
    let scales = match precision.weight(name, shape) {
        DType::I8 => shape[0],
        DType::Nf4 => elements.div_ceil(NF4_BLOCK),
        _ => 0,
    };
    (precision.weight(name, shape).bytes(elements) + 4 * scales) as f64
}

/// A share of the weights, spread over all of them: those that rest have time to come while others are multiplied.
struct Spread {
    share: f64,
    seen: f64,
    stay: f64,
}

impl Spread {
    fn new(share: f64) -> Self {
        Self { share, seen: 0.0, stay: 0.0 }
    }

    fn stays(&mut self, bytes: f64) -> bool {
        self.seen += bytes;
        let stays = self.stay + bytes <= self.share * self.seen;
        self.stay += if stays { bytes } else { 0.0 };
        stays
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stays_is_spread_and_within_its_room() {
        let mut third = Spread::new(1.0 / 3.0);
        let stays: Vec<bool> = (0..12).map(|_| third.stays(2.0)).collect();
        assert_eq!(stays.iter().filter(|&&stays| stays).count(), 4);
        assert!(stays.chunks(3).all(|three| three.iter().filter(|&&stays| stays).count() == 1), "{stays:?}");
        assert!(Spread::new(2.0).stays(5.0) && !Spread::new(0.0).stays(5.0));
        let mut uneven = Spread::new(0.5);
        let all = [9.0, 1.0, 4.0, 7.0, 2.0, 3.0];
        let kept: f64 = all.into_iter().filter(|&bytes| uneven.stays(bytes)).sum();
        assert!((6.0..=13.0).contains(&kept), "{kept}");
    }
}
