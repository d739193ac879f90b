//! Operations on memory that is not the host's: where tensors are, and what runs there.
//!
//! Each operation of [`crate::ops`] begins with a look at its operands. When [`operands`] finds them on a device, what follows
//! is one of that device's kernels where there is one, and else a function of [`composed`], made of candle's own operations,
//! which run wherever candle does. [`Device::composed`] is a device in host memory without kernels: what an accelerator runs is
//! tested there, in f64 too, by the tests of the CPU.

#[cfg(feature = "cuda")]
mod aside;
mod bring;
mod card;
pub(crate) mod composed;
mod ferry;
#[cfg(any(feature = "emulate", feature = "cuda"))]
mod fused;
mod operations;
mod weight;

#[cfg(feature = "cuda")]
pub(crate) use aside::{Aside, Pinned};
pub(crate) use bring::{Bring, InOrder};
pub use card::Card;
pub(crate) use operations::*;
pub(crate) use weight::{QuantisedOnDevice, Weight};

use std::fmt;

use candle_core::{Device as Place, Result as Composed, Tensor as Twin};

use crate::error::{Error, Result};
use crate::tensor::Tensor;

/// Where tensors are, and operations on them run.
#[derive(Clone)]
pub struct Device(Option<(Place, Kernels)>);

/// Whose kernels a device has besides candle's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kernels {
    /// Nobody's: all is composed.
    None,
    /// Those for CUDA, run by the emulator in host memory.
    #[cfg(feature = "emulate")]
    Emulated,
    /// Those for CUDA.
    #[cfg(feature = "cuda")]
    Cuda,
}

impl Device {
    /// The host's memory and this crate's own kernels.
    pub fn cpu() -> Self {
        Self(None)
    }

    /// The host's memory and candle's operations: slow, to test what accelerators run.
    pub fn composed() -> Self {
        Self(Some((Place::Cpu, Kernels::None)))
    }

    /// The host's memory, candle's operations and the kernels for CUDA, which the CPU emulates: slower still.
    #[cfg(feature = "emulate")]
    pub fn emulated() -> Self {
        Self(Some((Place::Cpu, Kernels::Emulated)))
    }

    /// An NVIDIA card.
    ///
    /// # Errors
    /// `DEVICE_UNAVAILABLE` when there is no such card, or its driver does not answer.
    #[cfg(feature = "cuda")]
    pub fn cuda(ordinal: usize) -> Result<Self> {
        // candle takes two devices for two, even if they are one card.
        static OPEN: std::sync::Mutex<Vec<(usize, Place)>> = std::sync::Mutex::new(Vec::new());
        let mut open = OPEN.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if !open.iter().any(|(known, _)| *known == ordinal) {
            // One stream for all threads. candle's own default is a stream for each, and Node makes, uses and drops tensors on
            // several: what one thread frees another might still be reading.
            let place = Place::new_cuda_with_stream(ordinal).map_err(|e| Error::NoDevice { reason: e.to_string() })?;
            card::prepare(&place)?;
            open.push((ordinal, place));
        }
        let place = open.iter().find(|(known, _)| *known == ordinal).map(|(_, place)| (place.clone(), Kernels::Cuda));
        Ok(Self(place))
    }

    /// What this build is for: the first NVIDIA card with feature `cuda`, else the CPU. `FLOWTUNE_COMPUTE` names another,
    /// for tests: `cpu`, `composed` or, with feature `emulate`, `emulated`.
    ///
    /// # Errors
    /// `DEVICE_UNAVAILABLE` when it is not there.
    pub fn preferred() -> Result<Self> {
        match std::env::var("FLOWTUNE_COMPUTE").as_deref() {
            Ok("cpu") => Ok(Self::cpu()),
            Ok("composed") => Ok(Self::composed()),
            #[cfg(feature = "emulate")]
            Ok("emulated") => Ok(Self::emulated()),
            Ok(other) if !other.is_empty() => {
                let reason = format!("FLOWTUNE_COMPUTE is `{other}`, which this build does not have");
                Err(Error::NoDevice { reason })
            }
            #[cfg(feature = "cuda")]
            _ => Self::cuda(0),
            #[cfg(not(feature = "cuda"))]
            _ => Ok(Self::cpu()),
        }
    }

    /// Of a tensor that candle has.
    pub(crate) fn of(twin: &Twin, kernels: Kernels) -> Self {
        Self(Some((twin.device().clone(), kernels)))
    }

    /// Whether these are the CPU's own kernels.
    pub fn is_cpu(&self) -> bool {
        self.0.is_none()
    }

    pub(crate) fn place(&self) -> Option<(&Place, Kernels)> {
        self.0.as_ref().map(|(place, kernels)| (place, *kernels))
    }
}

impl fmt::Debug for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            None => write!(f, "cpu"),
            Some((Place::Cpu, Kernels::None)) => write!(f, "composed"),
            #[cfg(feature = "emulate")]
            Some((Place::Cpu, Kernels::Emulated)) => write!(f, "emulated"),
            Some((other, _)) => write!(f, "{:?}", other.location()),
        }
    }
}

impl PartialEq for Device {
    fn eq(&self, other: &Self) -> bool {
        match (&self.0, &other.0) {
            (None, None) => true,
            (Some((a, own)), Some((b, other))) => own == other && a.same_device(b),
            _ => false,
        }
    }
}

/// A tensor of candle's, with the kernels of its device.
#[derive(Clone)]
pub(crate) struct OnDevice {
    pub(crate) twin: Twin,
    pub(crate) kernels: Kernels,
}

/// The operands as candle's tensors and the kernels of their device, when they are on one; nothing when they are the CPU's.
///
/// # Errors
/// When some are here and some there.
pub(crate) fn operands<const N: usize>(
    op: &'static str,
    tensors: [&Tensor; N],
) -> Result<Option<(Kernels, [Twin; N])>> {
    let Some((kernels, twins)) = all(op, tensors)? else { return Ok(None) };
    Ok(Some((kernels, twins.try_into().unwrap_or_else(|_| unreachable!("one for each operand")))))
}

/// As [`operands`] for any number of them.
///
/// # Errors
/// As [`operands`].
pub(crate) fn all<'a>(
    op: &'static str,
    tensors: impl IntoIterator<Item = &'a Tensor>,
) -> Result<Option<(Kernels, Vec<Twin>)>> {
    let found = tensors.into_iter().map(Tensor::on_device).collect::<Result<Vec<_>>>()?;
    let Some(first) = found.iter().flatten().next() else { return Ok(None) };
    let kernels = first.kernels;
    let twin = |found: Option<OnDevice>| found.filter(|x| x.kernels == kernels).map(|x| x.twin);
    let twins = found.into_iter().map(twin).collect::<Option<Vec<_>>>();
    Ok(Some((kernels, twins.ok_or(Error::Device { op })?)))
}

/// An operand that may be absent, as [`operands`] gives it.
pub(crate) fn optional(op: &'static str, tensor: Option<&Tensor>) -> Result<Option<Twin>> {
    match tensor {
        None => Ok(None),
        Some(tensor) => Ok(Some(tensor.on_device()?.ok_or(Error::Device { op })?.twin)),
    }
}

/// What an operation made on a device with these kernels.
pub(crate) fn made(kernels: Kernels, result: Composed<Twin>) -> Result<Tensor> {
    Ok(Tensor::of_twin(result?, kernels)?)
}

/// As [`made`] of what was made only if it was needed.
pub(crate) fn made_some(kernels: Kernels, result: Option<Twin>) -> Result<Option<Tensor>> {
    result.map(|twin| made(kernels, Ok(twin))).transpose()
}
