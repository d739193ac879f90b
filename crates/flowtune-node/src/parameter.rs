//! Weights and their gradients.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use flowtune_engine::{Gradients as EngineGradients, Param, Tensor as EngineTensor, Value};
use flowtune_train::clip_grad_norm;
use napi::Env;
use napi::bindgen_prelude::Object;
use napi_derive::napi;

use crate::error::{Failure, Result, guarded};
use crate::executor::promise;
use crate::tensor::Tensor;

/// A named weight; handles to the same weight share it.
#[napi]
pub struct Parameter {
    pub(crate) inner: Param,
}

impl From<&Param> for Parameter {
    fn from(param: &Param) -> Self {
        Self { inner: param.clone() }
    }
}

#[napi]
impl Parameter {
    /// A trainable weight of its own.
    #[napi(constructor)]
    pub fn new(name: String, value: &Tensor) -> Result<Self> {
        guarded(|| Ok(Self { inner: Param::trainable(name, value.get()?) }))
    }

    /// Checkpoint name.
    #[napi(getter)]
    pub fn name(&self) -> &str {
        self.inner.name()
    }

    /// Type of its elements.
    #[napi(getter)]
    pub fn dtype(&self) -> &'static str {
        self.inner.value().dtype().name()
    }

    /// Whether it receives gradients.
    #[napi(getter)]
    pub fn trainable(&self) -> bool {
        self.inner.is_trainable()
    }

    /// Freezes or unfreezes it.
    #[napi(setter)]
    pub fn set_trainable(&self, trainable: bool) {
        self.inner.set_trainable(trainable);
    }

    /// Its present value, tracked if it is trainable.
    #[napi]
    pub fn tensor(&self) -> Tensor {
        Value::param(&self.inner).into()
    }

    /// Replaces the value by one of the same shape and type.
    #[napi]
    pub fn assign(&self, value: &Tensor) -> Result<()> {
        guarded(|| {
            let (value, now) = (value.get()?, self.inner.value());
            if value.shape() != now.shape() || value.dtype() != now.dtype() {
                let message = format!("{}: expected {now:?}, got {value:?}", self.inner.name());
                return Err(Failure::new("SHAPE_MISMATCH", message));
            }
            self.inner.set(value.to_device(&now.device())?);
            Ok(())
        })
    }

    /// Extents, outermost first.
    #[napi(getter)]
    pub fn shape(&self) -> Vec<u32> {
        self.inner.value().shape().iter().map(|&extent| extent as u32).collect()
    }
}

/// Gradients of trainable weights.
#[napi]
pub struct Gradients {
    inner: Arc<Mutex<EngineGradients>>,
}

impl Gradients {
    /// The set, for the duration of one operation.
    pub fn shared(&self) -> Arc<Mutex<EngineGradients>> {
        Arc::clone(&self.inner)
    }
}

/// The set behind its lock.
pub fn locked(gradients: &Mutex<EngineGradients>) -> MutexGuard<'_, EngineGradients> {
    // An operation that failed half-way leaves whole tensors behind.
    gradients.lock().unwrap_or_else(PoisonError::into_inner)
}

#[napi]
impl Gradients {
    /// An empty set.
    #[napi(constructor)]
    #[allow(clippy::new_without_default)] // JavaScript has no `Default`
    pub fn new() -> Self {
        Self { inner: Arc::default() }
    }

    /// How many weights have a gradient.
    #[napi(getter)]
    pub fn size(&self) -> u32 {
        locked(&self.inner).len() as u32
    }

    /// Gradient of a weight, of its shape.
    #[napi]
    pub fn get(&self, parameter: &Parameter) -> Option<Tensor> {
        locked(&self.inner).get(&parameter.inner).cloned().map(Tensor::from)
    }

    /// Forgets all gradients.
    #[napi]
    pub fn clear(&self) {
        locked(&self.inner).clear();
    }

    /// Scales the gradients to a global norm of at most `max_norm`; a promise of the norm before.
    #[napi(ts_return_type = "Promise<number>")]
    pub fn clip_norm<'env>(&self, env: &'env Env, max_norm: f64) -> napi::Result<Object<'env>> {
        let gradients = self.shared();
        promise(env, move || Ok(clip_grad_norm(&mut locked(&gradients), max_norm)?))
    }
}

#[napi]
impl Tensor {
    /// Runs backwards from this tensor, which is usually a loss, and adds the weights' gradients, times `scale`, to
    /// `gradients`. Its graph is used up.
    #[napi(ts_return_type = "Promise<void>")]
    pub fn backward<'env>(&self, env: &'env Env, gradients: &Gradients, scale: f64) -> napi::Result<Object<'env>> {
        let (value, gradients) = (self.value(), gradients.shared());
        promise(env, move || {
            let value = value?;
            let tensor = value.tensor();
            let seed = EngineTensor::full(scale as f32, tensor.shape()).to_dtype(tensor.dtype())?;
            Ok(value.backward(seed, &mut locked(&gradients))?)
        })
    }
}
