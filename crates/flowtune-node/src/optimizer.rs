//! Optimizers and learning-rate schedules.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use flowtune_train::{AdamW as TrainAdamW, LrSchedule, lr_schedule_options, optimizer_options};
use napi::Env;
use napi::bindgen_prelude::Object;
use napi_derive::napi;

use crate::error::{Result, guarded};
use crate::executor::promise;
use crate::parameter::{Gradients, Parameter, locked};
use crate::tensor::Tensor;

/// AdamW over a list of weights.
#[napi]
pub struct AdamW {
    inner: Arc<Mutex<TrainAdamW>>,
}

impl AdamW {
    fn lock(&self) -> MutexGuard<'_, TrainAdamW> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A tensor with its name.
#[napi(object, object_from_js = false)]
pub struct NamedTensor {
    /// Name.
    pub name: String,
    /// Tensor.
    pub tensor: Tensor,
}

/// Tensors by name, from two lists of one length.
pub fn by_name(
    names: Vec<String>,
    tensors: &[&Tensor],
) -> Result<HashMap<String, flowtune_engine::Tensor>, crate::error::Failure> {
    names.into_iter().zip(tensors).map(|(name, tensor)| Ok((name, tensor.get()?))).collect()
}

#[napi]
impl AdamW {
    /// Optimizer of `parameters`; options are the JSON of a recipe's `optimizer`.
    #[napi(constructor)]
    pub fn new(parameters: Vec<&Parameter>, options_json: String) -> Result<Self> {
        guarded(|| {
            let params = parameters.iter().map(|parameter| parameter.inner.clone()).collect();
            let optimizer = TrainAdamW::new(params, optimizer_options(&options_json)?);
            Ok(Self { inner: Arc::new(Mutex::new(optimizer)) })
        })
    }

    /// One step of every weight.
    #[napi(ts_return_type = "Promise<void>")]
    pub fn step<'env>(&self, env: &'env Env, gradients: &Gradients, lr: f64) -> napi::Result<Object<'env>> {
        let (optimizer, gradients) = (Arc::clone(&self.inner), gradients.shared());
        promise(env, move || {
            let mut optimizer = optimizer.lock().unwrap_or_else(PoisonError::into_inner);
            Ok(optimizer.step(&locked(&gradients), lr)?)
        })
    }

    /// Moments and step counter.
    #[napi]
    pub fn state(&self) -> Result<Vec<NamedTensor>> {
        guarded(|| {
            let state = self.lock().state()?;
            Ok(state.into_iter().map(|(name, tensor)| NamedTensor { name, tensor: tensor.into() }).collect())
        })
    }

    /// Takes over what `state` gave.
    #[napi]
    pub fn load_state(&self, names: Vec<String>, tensors: Vec<&Tensor>) -> Result<()> {
        guarded(|| Ok(self.lock().load_state(&by_name(names, &tensors)?, Path::new("stateDict"))?))
    }
}

/// Learning rate of the step with this index, counted from 0, under a schedule given as the JSON of a recipe's
/// `lrSchedule`.
#[napi]
pub fn learning_rate(options_json: String, lr: f64, total_steps: f64, index: f64) -> Result<f64> {
    guarded(|| {
        let schedule = LrSchedule::new(lr, total_steps as u64, lr_schedule_options(&options_json)?);
        Ok(schedule.lr(index as u64))
    })
}
