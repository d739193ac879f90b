//! Gradients of weights, added up.

use std::collections::BTreeMap;

use crate::error::Result;
use crate::ops::elementwise::add_tensors;
use crate::param::{Param, ParamId};
use crate::tensor::Tensor;

/// Gradients of trainable weights. Calls of [`Tape::backward`](crate::Tape::backward) add to it: accumulation over batches.
#[derive(Debug, Default)]
pub struct Gradients(BTreeMap<ParamId, Tensor>);

impl Gradients {
    /// An empty set.
    pub fn new() -> Self {
        Self::default()
    }

    /// Gradient of `param`, of the weight's shape.
    pub fn get(&self, param: &Param) -> Option<&Tensor> {
        self.0.get(&param.id())
    }

    /// Gradient of `param`, to be changed.
    pub fn get_mut(&mut self, param: &Param) -> Option<&mut Tensor> {
        self.0.get_mut(&param.id())
    }

    /// Identities of the weights that have a gradient.
    pub fn ids(&self) -> impl Iterator<Item = ParamId> + '_ {
        self.0.keys().copied()
    }

    /// All gradients, in the order in which their weights were made.
    pub fn tensors(&self) -> impl Iterator<Item = &Tensor> {
        self.0.values()
    }

    /// All gradients, to be changed, in the same order.
    pub fn tensors_mut(&mut self) -> impl Iterator<Item = &mut Tensor> {
        self.0.values_mut()
    }

    /// How many weights have a gradient.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether no weight has a gradient.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Forgets all gradients.
    pub fn clear(&mut self) {
        self.0.clear();
    }

    /// Adds `gradient` to what `id` has.
    ///
    /// # Errors
    /// When the shapes differ.
    pub fn accumulate(&mut self, id: ParamId, gradient: Tensor) -> Result<()> {
        match self.0.get_mut(&id) {
            Some(total) => *total = add_tensors(total, &gradient)?,
            None => drop(self.0.insert(id, gradient)),
        }
        Ok(())
    }
}
