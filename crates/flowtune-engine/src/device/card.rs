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
            give_back_unused(&stream)?;
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

    /// This device, where `bytes` are free on it, else the CPU.
    ///
    /// # Errors
    /// As [`Device::card`].
    pub fn with_room_for(self, bytes: usize) -> Result<Self> {
        match self.card()? {
            Some(card) if card.available_memory < bytes as u64 => Ok(Self::cpu()),
            _ => Ok(self),
        }
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

/// Gives the driver what the pool keeps and nobody uses: it would count as taken.
#[cfg(feature = "cuda")]
fn give_back_unused(
    stream: &candle_core::cuda_backend::cudarc::driver::CudaStream,
) -> std::result::Result<(), candle_core::cuda_backend::cudarc::driver::DriverError> {
    use candle_core::cuda_backend::cudarc::driver::result;
    // What is freed is free once the stream has come there.
    stream.synchronize()?;
    // SAFETY: the device is open, and its pool is the driver's.
    unsafe {
        let pool = result::device::get_default_mem_pool(stream.context().cu_device())?;
        result::mem_pool::trim_to(pool, 0)
    }
}

/// What a device that is just opened is told, before anything is in its memory.
#[cfg(feature = "cuda")]
pub(super) fn prepare(place: &candle_core::Device) -> Result<()> {
    use candle_core::cuda_backend::cudarc::driver::{result, sys};
    let candle_core::Device::Cuda(device) = place else { return Ok(()) };
    // SAFETY: all is queued on the one stream of this device, in order; no event has to say when something may be read.
    unsafe { device.disable_event_tracking() };
    // The pool keeps what is freed: by default the driver takes it back whenever the stream is idle, and each step would ask
    // for it anew.
    let (stream, mut threshold) = (device.cuda_stream(), u64::MAX);
    // SAFETY: the device is open, its pool is the driver's, and the attribute has 64 bits.
    let kept = unsafe {
        result::device::get_default_mem_pool(stream.context().cu_device()).and_then(|pool| {
            let attribute = sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD;
            result::mem_pool::set_attribute(pool, attribute, std::ptr::from_mut(&mut threshold).cast())
        })
    };
    kept.map_err(|e| crate::error::Error::NoDevice { reason: e.to_string() })
}
