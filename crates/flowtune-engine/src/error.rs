//! What can go wrong in the engine.

/// Result of an engine call.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An engine error; [`Error::code`] is stable and reaches JavaScript.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An argument has a shape that the operation cannot take.
    #[error("{op}: {argument} must have shape {expected}, but has {got:?}")]
    Shape {
        /// Operation that was called.
        op: &'static str,
        /// Argument that is wrong.
        argument: &'static str,
        /// The shape that fits, in words or digits.
        expected: String,
        /// The shape that came.
        got: Vec<usize>,
    },
    /// An argument has a dtype that the operation cannot take.
    #[error("{op}: expected dtype {expected}, got {got}")]
    DType {
        /// Operation that was called.
        op: &'static str,
        /// Dtype that fits.
        expected: &'static str,
        /// Dtype that came.
        got: &'static str,
    },
    /// The tensor lives on a device that the operation has no kernel for.
    #[error("{op} has no kernel for this device; move the tensors to the CPU")]
    Device {
        /// Operation that was called.
        op: &'static str,
    },
    /// A kernel could not be run.
    #[error("kernel {kernel}: {reason}")]
    Launch {
        /// Name of the kernel.
        kernel: String,
        /// Why not.
        reason: String,
    },
    /// There is no device to compute on.
    #[error("the device cannot be used: {reason}; `flowtune doctor` says what is missing")]
    NoDevice {
        /// What the driver says.
        reason: String,
    },
    /// A device has no memory left.
    #[error(
        "the device's memory is full ({reason}); `model.quantization`, `train.memoryBudget`, a smaller resolution or batch \
         take less, and `flowtune plan` shows how much"
    )]
    DeviceMemory {
        /// What the driver says.
        reason: String,
    },
    /// A rule of the tape was broken.
    #[error("tape: {0}")]
    Tape(&'static str),
    /// A backward over values that an earlier one has used up.
    #[error(
        "a backward has used these values up already: compute them again, or add the losses and call backward once"
    )]
    Spent,
    /// A backward from what nothing trainable led to.
    #[error("nothing trainable led to this value: add a LoRA, or make a parameter trainable, before computing it")]
    Untracked,
    /// candle refused.
    #[error(transparent)]
    Candle(candle_core::Error),
}

impl From<candle_core::Error> for Error {
    fn from(error: candle_core::Error) -> Self {
        // candle hands on what the driver and cuBLAS said, as text behind several types.
        const FULL: [&str; 2] = ["CUDA_ERROR_OUT_OF_MEMORY", "CUBLAS_STATUS_ALLOC_FAILED"];
        let text = error.to_string();
        match FULL.into_iter().find(|name| text.contains(name)) {
            Some(reason) => Self::DeviceMemory { reason: reason.to_owned() },
            None => Self::Candle(error),
        }
    }
}

impl Error {
    /// Stable code of this error.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Shape { .. } | Self::DType { .. } => "SHAPE_MISMATCH",
            Self::Device { .. } | Self::NoDevice { .. } => "DEVICE_UNAVAILABLE",
            Self::DeviceMemory { .. } => "OUT_OF_MEMORY",
            Self::Spent | Self::Untracked => "INVALID_ARGUMENT",
            Self::Launch { .. } | Self::Tape(_) | Self::Candle(_) => "INTERNAL",
        }
    }
}

/// A [`Error::Shape`] in one call.
pub(crate) fn shape_error(
    op: &'static str,
    argument: &'static str,
    expected: impl Into<String>,
    got: &[usize],
) -> Error {
    Error::Shape { op, argument, expected: expected.into(), got: got.to_vec() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_card_is_out_of_memory() {
        let full = candle_core::Error::Msg("DriverError(CUDA_ERROR_OUT_OF_MEMORY, \"out of memory\")".to_owned());
        let error = Error::from(full.context("matmul"));
        assert_eq!(error.code(), "OUT_OF_MEMORY");
        assert!(error.to_string().contains("flowtune plan"), "{error}");
        assert_eq!(Error::from(candle_core::Error::Msg("else".to_owned())).code(), "INTERNAL");
    }
}
