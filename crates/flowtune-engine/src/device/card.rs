//! What an NVIDIA card says of itself.

use super::Device;
use crate::error::Result;

/// An NVIDIA card.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Card {
    /// What its maker calls it.
    pub name: String,
    /// Its generation, e.g. `9.0`.
    pub compute_capability: String,
    /// Bytes that are free on it.
    pub available_memory: u64,
}

impl Device {
    /// The card that this is, if it is one.
    ///
    /// # Errors
    /// `DEVICE_UNAVAILABLE` when its driver does not answer.
    #[cfg(feature = "cuda")]
    pub fn card(&self) -> Result<Option<Card>> {
        use candle_core::Device as Place;
        let Some((Place::Cuda(device), _)) = self.place() else { return Ok(None) };
        let stream = device.cuda_stream();
        let ask = || -> std::result::Result<Card, candle_core::cuda_backend::cudarc::driver::DriverError> {
            let context = stream.context();
            let (major, minor) = context.compute_capability()?;
            let (free, _) = context.mem_get_info()?;
            Ok(Card {
                name: context.name()?,
                compute_capability: format!("{major}.{minor}"),
                available_memory: free as u64,
            })
        };
        ask().map(Some).map_err(|e| crate::error::Error::NoDevice { reason: e.to_string() })
    }

    /// The card that this is: none in a build without feature `cuda`.
    ///
    /// # Errors
    /// None.
    #[cfg(not(feature = "cuda"))]
    pub fn card(&self) -> Result<Option<Card>> {
        Ok(None)
    }
}
