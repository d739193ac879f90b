//! Collects a model's weights by their checkpoint names.

use flowtune_engine::{Param, Tensor};

use crate::error::Result;
use crate::linear::Linear;

/// Where a weight of a name and a shape comes from: a checkpoint, or an initialiser.
pub(super) type Source<'a> = &'a mut dyn FnMut(&str, &[usize]) -> Result<Tensor>;

/// Builds layers and remembers their weights in order.
pub(super) struct Builder<'a> {
    source: Source<'a>,
    pub(super) params: Vec<Param>,
}

impl<'a> Builder<'a> {
    pub(super) fn new(source: Source<'a>) -> Self {
        Self { source, params: Vec::new() }
    }

    pub(super) fn param(&mut self, name: &str, shape: &[usize]) -> Result<Param> {
        let param = Param::frozen(name, (self.source)(name, shape)?);
        self.params.push(param.clone());
        Ok(param)
    }

    /// `<name>.weight`, `[outputs, inputs]`.
    pub(super) fn linear(&mut self, name: &str, outputs: usize, inputs: usize) -> Result<Linear> {
        Ok(Linear::new(self.param(&format!("{name}.weight"), &[outputs, inputs])?))
    }
}
