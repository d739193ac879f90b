//! What a backward keeps of a value.

use std::fmt;
use std::sync::Arc;

use crate::error::Result;
use crate::tensor::Tensor;

/// A value, or how to make it again from values that are kept anyway.
#[derive(Clone)]
pub(crate) enum Saved {
    /// The value itself.
    Value(Tensor),
    /// Makes it.
    Made(Arc<dyn Fn() -> Result<Tensor> + Send + Sync>),
}

impl Saved {
    /// The value itself.
    pub(crate) fn of(tensor: Tensor) -> Self {
        Self::Value(tensor)
    }

    /// What `make` makes.
    pub(crate) fn made(make: impl Fn() -> Result<Tensor> + Send + Sync + 'static) -> Self {
        Self::Made(Arc::new(make))
    }

    /// The value.
    ///
    /// # Errors
    /// What making it returns.
    pub(crate) fn get(&self) -> Result<Tensor> {
        match self {
            Self::Value(tensor) => Ok(tensor.clone()),
            Self::Made(make) => make(),
        }
    }
}

impl fmt::Debug for Saved {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Value(tensor) => f.debug_tuple("Value").field(tensor).finish(),
            Self::Made(_) => f.write_str("Made"),
        }
    }
}
