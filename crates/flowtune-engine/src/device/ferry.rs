//! Weights that rest on the host and come to the device for each product: the next one while this one is multiplied.
//!
//! Which one is next is what came next the last time that the same two came. A step takes its weights in the same order
//! every time: forwards, and backwards from the last block, each block forwards again first.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use super::Device;
use crate::error::Result;
use crate::tensor::{Resting, Tensor};

/// A copy of `weight` on `device`.
///
/// # Errors
/// `OUT_OF_MEMORY` when there is no room.
pub(crate) fn brought(weight: &Tensor, device: &Device) -> Result<Tensor> {
    static FERRY: Mutex<Option<Ferry>> = Mutex::new(None);
    let mut ferry = FERRY.lock().unwrap_or_else(PoisonError::into_inner);
    if ferry.as_ref().is_none_or(|ferry| ferry.device != *device) {
        *ferry = Some(Ferry::new(device)?);
    }
    let Some(ferry) = ferry.as_mut() else { return weight.to_device(device) };
    ferry.bring(weight)
}

/// Which weight: where its storage is.
type Id = usize;

struct Ferry {
    device: Device,
    /// The last two that came.
    last: [Id; 2],
    /// What came after which two.
    after: HashMap<[Id; 2], Resting>,
    coming: Option<(Resting, Coming)>,
    #[cfg(feature = "cuda")]
    aside: Option<super::aside::Aside>,
}

/// On its way.
struct Coming {
    tensor: Tensor,
    #[cfg(feature = "cuda")]
    arrival: Option<super::aside::Arrival>,
}

impl Ferry {
    fn new(device: &Device) -> Result<Self> {
        Ok(Self {
            device: device.clone(),
            last: [0; 2],
            after: HashMap::new(),
            coming: None,
            #[cfg(feature = "cuda")]
            aside: super::aside::Aside::beside(device)?,
        })
    }

    fn bring(&mut self, weight: &Tensor) -> Result<Tensor> {
        let resting = weight.resting();
        let came = match self.coming.take() {
            Some((next, coming)) if next.is(weight) => coming.arrived()?,
            // Something else than last time.
            Some((_, coming)) => {
                coming.arrived()?;
                weight.to_device(&self.device)?
            }
            None => weight.to_device(&self.device)?,
        };
        let id = resting.id();
        let (before, now) = (self.last, [self.last[1], id]);
        self.after.insert(before, resting);
        self.last = now;
        if let Some(next) = self.after.get(&now).cloned() {
            self.coming = next.weight().map(|weight| self.start(&weight)).transpose()?.map(|coming| (next, coming));
        }
        Ok(came)
    }

    #[cfg(feature = "cuda")]
    fn start(&self, weight: &Tensor) -> Result<Coming> {
        let Some(aside) = &self.aside else {
            return Ok(Coming { tensor: weight.to_device(&self.device)?, arrival: None });
        };
        weight.pin(aside);
        let tensor = weight.to_device_by(&self.device, aside)?;
        Ok(Coming { tensor, arrival: Some(aside.arrival()?) })
    }

    #[cfg(not(feature = "cuda"))]
    fn start(&self, weight: &Tensor) -> Result<Coming> {
        Ok(Coming { tensor: weight.to_device(&self.device)? })
    }
}

impl Coming {
    /// The tensor, for what is queued from now on; also where it is not wanted any more, before its memory is given back.
    fn arrived(self) -> Result<Tensor> {
        #[cfg(feature = "cuda")]
        if let Some(arrival) = &self.arrival {
            arrival.waited_for()?;
        }
        Ok(self.tensor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_expected_comes_and_what_is_not_comes_too() {
        let device = Device::composed();
        let weights: Vec<Tensor> = (0..4).map(|i| Tensor::full(i as f32, &[2])).collect();
        let mut ferry = Ferry::new(&device).unwrap();
        let mut is_expected = Vec::new();
        // Forwards and backwards, three times; then in another order.
        let step = [0, 1, 2, 3, 3, 2, 1, 0];
        for i in [&step[..], &step, &step, &[2, 0, 3]].concat() {
            is_expected.push(ferry.coming.as_ref().is_some_and(|(next, _)| next.is(&weights[i])));
            let came = ferry.bring(&weights[i]).unwrap();
            assert_eq!((came.device(), came.to_f32_vec().unwrap()), (device.clone(), vec![i as f32; 2]));
        }
        assert!(!is_expected[..8].contains(&true), "{is_expected:?}");
        assert!(!is_expected[16..24].contains(&false), "{is_expected:?}");
        drop(weights);
        let other = Tensor::full(9f32, &[2]);
        assert_eq!(ferry.bring(&other).unwrap().to_f32_vec().unwrap(), [9.0; 2]);
    }
}
