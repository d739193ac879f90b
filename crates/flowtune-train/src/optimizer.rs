//! AdamW over the trainable weights, and clipping of their gradients, as `torch.optim.AdamW` and
//! `torch.nn.utils.clip_grad_norm_`.

use std::collections::HashMap;
use std::path::Path;

use flowtune_engine::ops::optimizer as kernel;
use flowtune_engine::{DType, Gradients, Param, Tensor};

use crate::error::{Error, Result};
use crate::recipe::OptimizerRecipe;

/// Name of the step counter in a saved state: int64 `[1]`.
const STEP: &str = "step";
/// Suffixes of the moments in a saved state, torch's names.
const FIRST: &str = ".exp_avg";
const SECOND: &str = ".exp_avg_sq";

/// AdamW with decoupled weight decay. Moments are float32, of the weight's shape.
#[derive(Debug)]
pub struct AdamW {
    options: OptimizerRecipe,
    slots: Vec<Slot>,
    step: u64,
}

#[derive(Debug)]
struct Slot {
    param: Param,
    first: Tensor,
    second: Tensor,
}

impl AdamW {
    /// Optimizer of `params`, with moments of zero. The order of `params` fixes the order of the sums, and with it
    /// the last bit of the gradient norm.
    pub fn new(params: Vec<Param>, options: OptimizerRecipe) -> Self {
        let slot = |param: Param| {
            let weight = param.value();
            let zeros = || Tensor::zeros(weight.shape(), DType::F32);
            Slot { first: zeros(), second: zeros(), param }
        };
        Self { options, slots: params.into_iter().map(slot).collect(), step: 0 }
    }

    /// Steps taken.
    pub fn steps(&self) -> u64 {
        self.step
    }

    /// The weights, in order.
    pub fn params(&self) -> impl Iterator<Item = &Param> {
        self.slots.iter().map(|slot| &slot.param)
    }

    /// Numbers that train.
    pub fn parameter_count(&self) -> u64 {
        self.slots.iter().map(|slot| slot.first.len() as u64).sum()
    }

    /// Scales `gradients` so that their global norm is at most `max_norm`, and returns the norm before: torch's
    /// `clip_grad_norm_`. A `max_norm` of 0 only measures.
    ///
    /// # Errors
    /// `INTERNAL` when a weight has no gradient.
    pub fn clip_gradients(&self, gradients: &mut Gradients, max_norm: f64) -> Result<f64> {
        for slot in &self.slots {
            gradient(gradients, &slot.param)?;
        }
        clip_grad_norm(gradients, max_norm)
    }

    /// One step of every weight at learning rate `lr`.
    ///
    /// # Errors
    /// `INTERNAL` when a weight has no gradient, before any weight changes; `SHAPE_MISMATCH` when one is of another
    /// shape or not float32.
    pub fn step(&mut self, gradients: &Gradients, lr: f64) -> Result<()> {
        for slot in &self.slots {
            gradient(gradients, &slot.param)?;
        }
        self.step += 1;
        let OptimizerRecipe { beta1, beta2, eps, weight_decay, .. } = self.options;
        let options = kernel::AdamW { lr, beta1, beta2, eps, weight_decay };
        for Slot { param, first, second } in &mut self.slots {
            let gradient = gradient(gradients, param)?;
            param.update(|weight| {
                // A state begins, and is loaded, on the host.
                for moment in [&mut *first, &mut *second] {
                    *moment = moment.to_device(&weight.device())?;
                }
                kernel::adamw_step(weight, gradient, first, second, self.step, options)
            })?;
        }
        Ok(())
    }

    /// The state as named tensors: `step` (int64 `[1]`) and, by weight, `NAME.exp_avg` and `NAME.exp_avg_sq`.
    /// Shares storage: write it out before the next step, or the step copies.
    ///
    /// # Errors
    /// None in practice.
    pub fn state(&self) -> Result<Vec<(String, Tensor)>> {
        let mut state = vec![(STEP.to_owned(), Tensor::from_vec(vec![self.step as i64], &[1])?)];
        for Slot { param, first, second } in &self.slots {
            state.push((format!("{}{FIRST}", param.name()), first.clone()));
            state.push((format!("{}{SECOND}", param.name()), second.clone()));
        }
        Ok(state)
    }

    /// Takes over a state that [`AdamW::state`] gave for the same weights; `source` names its file in errors.
    ///
    /// # Errors
    /// `CHECKPOINT_LAYOUT` naming the tensor that is missing, too many, or of another shape; nothing changes then.
    pub fn load_state(&mut self, state: &HashMap<String, Tensor>, source: &Path) -> Result<()> {
        let find = |name: String, shape: &[usize], dtype: DType| -> Result<Tensor> {
            let tensor = state.get(&name).ok_or_else(|| Error::layout(source, format!("{name} is missing")))?;
            if tensor.shape() != shape || tensor.dtype() != dtype {
                let reason = format!("{name} must be {} {shape:?}, but is {tensor:?}", dtype.name());
                return Err(Error::layout(source, reason));
            }
            Ok(tensor.clone())
        };
        let mut moments = Vec::with_capacity(self.slots.len());
        for Slot { param, first, .. } in &self.slots {
            let first_moment = find(format!("{}{FIRST}", param.name()), first.shape(), DType::F32)?;
            moments.push((first_moment, find(format!("{}{SECOND}", param.name()), first.shape(), DType::F32)?));
        }
        let step = find(STEP.to_owned(), &[1], DType::I64)?.as_slice::<i64>()?[0];
        let known = 1 + 2 * self.slots.len();
        if state.len() != known {
            let reason = format!("holds {} tensors, {known} fit this recipe; resume with the run's own", state.len());
            return Err(Error::layout(source, reason));
        }
        self.step = u64::try_from(step).map_err(|_| Error::layout(source, format!("step is {step}")))?;
        for (slot, (first, second)) in self.slots.iter_mut().zip(moments) {
            (slot.first, slot.second) = (first, second);
        }
        Ok(())
    }
}

/// Scales `gradients` so that their global norm is at most `max_norm`, and returns the norm before: torch's
/// `clip_grad_norm_`. A `max_norm` of 0 only measures. The sum goes over the weights in the order in which they were
/// made, so that its last bit is the same on every run.
///
/// # Errors
/// `SHAPE_MISMATCH` when a gradient is not float32.
pub fn clip_grad_norm(gradients: &mut Gradients, max_norm: f64) -> Result<f64> {
    let norm = kernel::sum_of_squares(&gradients.tensors().collect::<Vec<_>>())?.sqrt();
    let factor = max_norm / (norm + 1e-6);
    if max_norm > 0.0 && factor < 1.0 {
        for tensor in gradients.tensors_mut() {
            kernel::scale_in_place(tensor, factor as f32)?;
        }
    }
    Ok(norm)
}

fn gradient<'a>(gradients: &'a Gradients, param: &Param) -> Result<&'a Tensor> {
    gradients.get(param).ok_or_else(|| Error::Internal(format!("{} has no gradient", param.name())))
}

#[cfg(test)]
mod tests;
