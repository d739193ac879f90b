//! Operations on memory that is not the host's: where tensors are, and what runs there.
//!
//! Each operation of [`crate::ops`] begins with a look at its operands: when [`operands`] finds them on a device, a function
//! of [`composed`] does the rest, made of candle's own operations, which run wherever candle does. [`Device::composed`] is
//! such a device in host memory: what an accelerator runs is tested there, in f64 too, by the tests of the CPU.

pub(crate) mod composed;

use std::fmt;

use candle_core::{Device as Place, Result as Composed, Tensor as Twin};

use crate::error::{Error, Result};
use crate::tensor::Tensor;

/// Where tensors are, and operations on them run.
#[derive(Clone)]
pub struct Device(Option<Place>);

impl Device {
    /// The host's memory and this crate's own kernels.
    pub fn cpu() -> Self {
        Self(None)
    }

    /// The host's memory and candle's operations: slow, to test what accelerators run.
    pub fn composed() -> Self {
        Self(Some(Place::Cpu))
    }

    /// Of a tensor that candle has.
    pub(crate) fn of(twin: &Twin) -> Self {
        Self(Some(twin.device().clone()))
    }

    /// Whether these are the CPU's own kernels.
    pub fn is_cpu(&self) -> bool {
        self.0.is_none()
    }

    pub(crate) fn place(&self) -> Option<&Place> {
        self.0.as_ref()
    }
}

impl fmt::Debug for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            None => write!(f, "cpu"),
            Some(Place::Cpu) => write!(f, "composed"),
            Some(other) => write!(f, "{:?}", other.location()),
        }
    }
}

impl PartialEq for Device {
    fn eq(&self, other: &Self) -> bool {
        match (&self.0, &other.0) {
            (None, None) => true,
            (Some(a), Some(b)) => a.same_device(b),
            _ => false,
        }
    }
}

/// The operands as candle's tensors, when they are on a device; nothing when they are the CPU's.
///
/// # Errors
/// When some are here and some there.
pub(crate) fn operands<const N: usize>(op: &'static str, tensors: [&Tensor; N]) -> Result<Option<[Twin; N]>> {
    let twins = all(op, tensors)?;
    Ok(twins.map(|twins| twins.try_into().unwrap_or_else(|_| unreachable!("one for each operand"))))
}

/// As [`operands`] for any number of them.
///
/// # Errors
/// As [`operands`].
pub(crate) fn all<'a>(op: &'static str, tensors: impl IntoIterator<Item = &'a Tensor>) -> Result<Option<Vec<Twin>>> {
    let twins = tensors.into_iter().map(Tensor::twin).collect::<Result<Vec<_>>>()?;
    match twins.iter().flatten().count() {
        0 => Ok(None),
        found if found == twins.len() => Ok(Some(twins.into_iter().flatten().collect())),
        _ => Err(Error::Device { op }),
    }
}

/// An operand that may be absent, as [`operands`] gives it.
pub(crate) fn optional(op: &'static str, tensor: Option<&Tensor>) -> Result<Option<Twin>> {
    match tensor {
        None => Ok(None),
        Some(tensor) => Ok(Some(tensor.twin()?.ok_or(Error::Device { op })?)),
    }
}

/// What a composed operation made.
pub(crate) fn made(result: Composed<Twin>) -> Result<Tensor> {
    Ok(Tensor::of_twin(result?)?)
}

/// As [`made`] of what was made only if it was needed.
pub(crate) fn made_some(result: Option<Twin>) -> Result<Option<Tensor>> {
    result.map(|twin| made(Ok(twin))).transpose()
}

#[cfg(test)]
mod tests;
