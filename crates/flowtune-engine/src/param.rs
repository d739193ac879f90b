//! Weights: frozen or trainable.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use crate::tensor::Tensor;

/// Identity of a [`Param`], unique in the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ParamId(u64);

/// A named weight. Clones are handles to the same weight.
#[derive(Clone, Debug)]
pub struct Param(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    id: ParamId,
    name: String,
    trainable: AtomicBool,
    value: RwLock<Tensor>,
}

impl Param {
    /// A frozen weight under its checkpoint name, e.g. `x_embedder.weight`.
    pub fn frozen(name: impl Into<String>, value: Tensor) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Self(Arc::new(Inner {
            id: ParamId(NEXT.fetch_add(1, Ordering::Relaxed)),
            name: name.into(),
            trainable: AtomicBool::new(false),
            value: RwLock::new(value),
        }))
    }

    /// A weight that receives gradients.
    pub fn trainable(name: impl Into<String>, value: Tensor) -> Self {
        let param = Self::frozen(name, value);
        param.set_trainable(true);
        param
    }

    /// Identity of the weight.
    pub fn id(&self) -> ParamId {
        self.0.id
    }

    /// Checkpoint name.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// Whether the tape computes a gradient for it.
    pub fn is_trainable(&self) -> bool {
        self.0.trainable.load(Ordering::Relaxed)
    }

    /// Freezes or unfreezes the weight.
    pub fn set_trainable(&self, trainable: bool) {
        self.0.trainable.store(trainable, Ordering::Relaxed);
    }

    /// The present value; shares storage.
    pub fn value(&self) -> Tensor {
        self.0.value.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Replaces the value.
    pub fn set(&self, value: Tensor) {
        *self.0.value.write().unwrap_or_else(PoisonError::into_inner) = value;
    }

    /// Changes the value in place when no one else holds it, on a copy otherwise.
    pub fn update<R>(&self, change: impl FnOnce(&mut Tensor) -> R) -> R {
        change(&mut self.0.value.write().unwrap_or_else(PoisonError::into_inner))
    }
}
