//! Reverse-mode differentiation over coarse operations.
//!
//! Model code is forward only. Each operation in [`crate::ops`] computes its value and, when one of its
//! inputs is tracked, records a backward function. Frozen operands are untracked: nothing is saved or
//! computed for them. [`Tape::backward`] consumes the tape and frees as it unwinds.

use std::cell::{Cell, RefCell};

use crate::error::{Error, Result};
use crate::gradients::Gradients;
use crate::param::Param;
use crate::record::{Backward, Record};
use crate::saved::Saved;
use crate::tensor::{Tensor, live_bytes};

/// A value in a computation: a tensor, and its place on the tape if something trainable led to it.
#[derive(Clone, Debug)]
pub struct Var {
    tensor: Tensor,
    slot: Option<usize>,
    /// What a backward keeps of it, if not the tensor.
    saved: Option<Saved>,
}

impl Var {
    /// A value that gets no gradient.
    pub fn constant(tensor: Tensor) -> Self {
        Self::at(None, tensor)
    }

    fn at(slot: Option<usize>, tensor: Tensor) -> Self {
        Self { tensor, slot, saved: None }
    }

    /// The value.
    pub fn tensor(&self) -> &Tensor {
        &self.tensor
    }

    /// The value, without the place on the tape.
    pub fn into_tensor(self) -> Tensor {
        self.tensor
    }

    /// Whether a gradient flows back through it.
    pub fn is_tracked(&self) -> bool {
        self.slot.is_some()
    }

    /// What the backward of an operation keeps of it.
    pub(crate) fn saved(&self) -> Saved {
        self.saved.clone().unwrap_or_else(|| Saved::of(self.tensor.clone()))
    }

    /// Whether a backward that keeps it keeps how to make it again.
    pub(crate) fn is_made_again(&self) -> bool {
        self.saved.is_some()
    }

    /// Where its gradient is gathered.
    pub(crate) fn slot(&self) -> Option<usize> {
        self.slot
    }
}

/// What a tape keeps of the functions given to [`Tape::checkpoint`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keep {
    /// All activations: nothing is computed twice.
    Everything,
    /// Inputs only: each function runs a second time in the backward.
    Inputs,
    /// What products made, of as many functions as fit while all tensors in memory take at most this many bytes; inputs of
    /// the others. What lies between products is cheap, and made again where a backward needs it. The first function is
    /// kept, and measured.
    Within(usize),
}

/// A recording of operations, made anew for every step.
pub struct Tape {
    record: Option<RefCell<Record>>,
    keep: Keep,
    /// The most that a function kept.
    largest: Cell<usize>,
    /// Whether what is cheap is made again instead of kept.
    lean: bool,
    saw_trainable: Cell<bool>,
}

impl Tape {
    /// A tape that records, and keeps the inputs of checkpoints.
    pub fn new() -> Self {
        Self::keeping(Keep::Inputs)
    }

    /// A tape that records and keeps every activation: [`Tape::checkpoint`] runs its function as it is.
    pub fn without_checkpointing() -> Self {
        Self::keeping(Keep::Everything)
    }

    /// A tape that records.
    pub fn keeping(keep: Keep) -> Self {
        Self {
            record: Some(RefCell::default()),
            keep,
            largest: Cell::new(0),
            lean: matches!(keep, Keep::Within(_)),
            saw_trainable: Cell::new(false),
        }
    }

    /// A tape that records nothing: inference.
    pub fn inference() -> Self {
        Self { record: None, ..Self::keeping(Keep::Everything) }
    }

    /// `param` as a value: tracked when it is trainable and the tape records.
    pub fn param(&self, param: &Param) -> Var {
        let tensor = param.value();
        if !param.is_trainable() {
            return Var::constant(tensor);
        }
        self.saw_trainable.set(true);
        let slot = self.record.as_ref().map(|record| record.borrow_mut().slot_of(param.id()));
        Var::at(slot, tensor)
    }

    /// A tracked input that is not a weight; its gradient comes from [`Tape::backward`].
    pub fn leaf(&self, tensor: Tensor) -> Var {
        let slot = self.record.as_ref().map(|record| record.borrow_mut().new_slot());
        Var::at(slot, tensor)
    }

    /// Whether the backward of an operation on `inputs` will run.
    pub(crate) fn tracks(&self, inputs: &[&Var]) -> bool {
        self.record.is_some() && inputs.iter().any(|v| v.is_tracked())
    }

    /// Records an operation with one output. `backward` maps the output's gradient to the inputs' gradients,
    /// in order; it is made only when needed and returns `None` for inputs that are not tracked.
    pub fn record<F, B>(&self, inputs: &[&Var], value: Tensor, backward: F) -> Var
    where
        F: FnOnce(Vec<bool>) -> B,
        B: FnOnce(Tensor) -> Result<Vec<Option<Tensor>>> + Send + 'static,
    {
        if !self.tracks(inputs) {
            return Var::constant(value);
        }
        let backward = backward(inputs.iter().map(|v| v.is_tracked()).collect());
        let run: Backward = Box::new(move |mut gradients, _| match gradients.pop().flatten() {
            Some(gradient) => backward(gradient),
            None => Ok(Vec::new()),
        });
        self.push(inputs.iter().map(|v| v.slot).collect(), vec![value], run).remove(0)
    }

    /// As [`Tape::record`], of an operation with several outputs; an output that nothing used has no gradient.
    pub fn record_many<F, B>(&self, inputs: &[&Var], values: Vec<Tensor>, backward: F) -> Vec<Var>
    where
        F: FnOnce(Vec<bool>) -> B,
        B: FnOnce(Vec<Option<Tensor>>) -> Result<Vec<Option<Tensor>>> + Send + 'static,
    {
        if !self.tracks(inputs) {
            return values.into_iter().map(Var::constant).collect();
        }
        let backward = backward(inputs.iter().map(|v| v.is_tracked()).collect());
        let run: Backward = Box::new(move |gradients, _| backward(gradients));
        self.push(inputs.iter().map(|v| v.slot).collect(), values, run)
    }

    /// `value` as one that costs little: where memory is short, a backward that needs it makes it again, from what the
    /// backward of its own operation keeps anyway.
    pub(crate) fn cheap(&self, value: Var, make: impl Fn() -> Result<Tensor> + Send + Sync + 'static) -> Var {
        let saved = (self.lean && value.is_tracked()).then(|| Saved::made(make));
        Var { saved, ..value }
    }

    fn push(&self, inputs: Vec<Option<usize>>, values: Vec<Tensor>, backward: Backward) -> Vec<Var> {
        let Some(record) = &self.record else {
            return values.into_iter().map(Var::constant).collect();
        };
        let record = &mut *record.borrow_mut();
        let vars: Vec<Var> = values.into_iter().map(|tensor| Var::at(Some(record.new_slot()), tensor)).collect();
        let outputs = vars.iter().filter_map(|v| v.slot).collect();
        record.push(inputs, outputs, backward);
        vars
    }

    /// Runs `f` keeping only its inputs, and runs it again when the gradient arrives: memory for one block
    /// at a time (gradient checkpointing).
    ///
    /// # Errors
    /// What `f` returns.
    pub fn checkpoint<F>(&self, inputs: &[Var], f: F) -> Result<Vec<Var>>
    where
        F: Fn(&Tape, &[Var]) -> Result<Vec<Var>> + Send + 'static,
    {
        if self.record.is_none() || self.keeps_next() {
            let before = live_bytes();
            let outputs = f(self, inputs)?;
            self.largest.set(self.largest.get().max(live_bytes().saturating_sub(before)));
            return Ok(outputs);
        }
        let inner = Tape::inference();
        let constants: Vec<Var> = inputs.iter().map(|v| Var::constant(v.tensor.clone())).collect();
        let values: Vec<Tensor> = f(&inner, &constants)?.into_iter().map(Var::into_tensor).collect();
        if !inner.saw_trainable.get() && !inputs.iter().any(Var::is_tracked) {
            return Ok(values.into_iter().map(Var::constant).collect());
        }
        self.saw_trainable.set(true);
        let slots = inputs.iter().map(|v| v.slot).collect();
        let (saved, lean) = (inputs.to_vec(), self.lean);
        let run: Backward = Box::new(move |gradients, sink| recompute(f, &saved, lean, gradients, sink));
        Ok(self.push(slots, values, run))
    }

    /// Whether the activations of one more function may stay.
    fn keeps_next(&self) -> bool {
        match self.keep {
            Keep::Everything => true,
            Keep::Inputs => false,
            // Twice: for this one, and for one that is computed again while it is still there.
            Keep::Within(budget) => live_bytes() + 2 * self.largest.get() <= budget,
        }
    }

    /// Runs the tape backwards from `output` with gradient `seed` of the output's shape, adding the weights'
    /// gradients to `gradients`. Returns the gradients of `leaves`, in order.
    ///
    /// # Errors
    /// `INTERNAL` when the tape does not record or `output` does not depend on anything trainable.
    pub fn backward(
        self,
        output: &Var,
        seed: Tensor,
        leaves: &[&Var],
        gradients: &mut Gradients,
    ) -> Result<Vec<Option<Tensor>>> {
        if !output.is_tracked() {
            return Err(Error::Tape("the output depends on nothing trainable"));
        }
        self.unwind(vec![(output.slot, seed)], leaves, gradients)
    }

    fn unwind(
        self,
        seeds: Vec<(Option<usize>, Tensor)>,
        leaves: &[&Var],
        gradients: &mut Gradients,
    ) -> Result<Vec<Option<Tensor>>> {
        let record = self.into_record().ok_or(Error::Tape("backward on a tape that does not record"))?;
        record.unwind(seeds, &leaves.iter().map(|leaf| leaf.slot).collect::<Vec<_>>(), gradients)
    }

    /// What was recorded; none when the tape does not record.
    pub(crate) fn into_record(self) -> Option<Record> {
        self.record.map(RefCell::into_inner)
    }
}

impl Default for Tape {
    fn default() -> Self {
        Self::new()
    }
}

/// Second run of a checkpointed function, this time recorded, and its backward.
fn recompute<F>(
    f: F,
    saved: &[Var],
    lean: bool,
    output_gradients: Vec<Option<Tensor>>,
    sink: &mut Gradients,
) -> Result<Vec<Option<Tensor>>>
where
    F: Fn(&Tape, &[Var]) -> Result<Vec<Var>>,
{
    let tape = Tape { lean, ..Tape::new() };
    let inputs: Vec<Var> = saved
        .iter()
        .map(|v| if v.is_tracked() { tape.leaf(v.tensor.clone()) } else { Var::constant(v.tensor.clone()) })
        .collect();
    let outputs = f(&tape, &inputs)?;
    let seeds = outputs
        .iter()
        .zip(output_gradients)
        .filter_map(|(output, gradient)| gradient.map(|g| (output.slot, g)))
        .collect();
    drop(outputs);
    tape.unwind(seeds, &inputs.iter().collect::<Vec<_>>(), sink)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn param(name: &str, trainable: bool, values: &[f32]) -> Param {
        let value = Tensor::new(values.to_vec(), &[2, values.len() / 2]);
        let param = Param::frozen(name, value);
        param.set_trainable(trainable);
        param
    }

    /// silu(x·Wᵀ)·Vᵀ, as one checkpoint.
    fn block(tape: &Tape, x: &Var, w: &Param, v: &Param) -> Var {
        let (w, v) = (w.clone(), v.clone());
        tape.checkpoint(std::slice::from_ref(x), move |tape, inputs| {
            let hidden = tape.silu(&tape.linear(&inputs[0], &tape.param(&w), None)?)?;
            Ok(vec![tape.linear(&hidden, &tape.param(&v), None)?])
        })
        .unwrap()
        .remove(0)
    }

    fn gradients(tape: Tape, w: &Param, v: &Param) -> Gradients {
        let x = Var::constant(Tensor::new(vec![0.5f32, -1.0, 2.0, 0.25], &[2, 2]));
        let first = block(&tape, &x, w, v);
        let y = block(&tape, &first, w, v);
        let mut out = Gradients::new();
        tape.backward(&y, Tensor::full(1f32, &[2, 2]), &[], &mut out).unwrap();
        out
    }

    #[test]
    fn only_trainable_weights_get_gradients_and_checkpoints_change_nothing() {
        let w = param("w", true, &[0.3, -0.7, 1.1, 0.2]);
        let v = param("v", false, &[-0.4, 0.9, 0.6, 0.1]);
        let (kept, recomputed) = (gradients(Tape::without_checkpointing(), &w, &v), gradients(Tape::new(), &w, &v));
        for g in [&kept, &recomputed] {
            assert_eq!(g.ids().collect::<Vec<_>>(), [w.id()]);
            assert!(g.get(&w).unwrap().as_slice::<f32>().unwrap().iter().all(|x| x.is_finite() && *x != 0.0));
        }
        assert_eq!(
            kept.get(&w).unwrap().as_slice::<f32>().unwrap(),
            recomputed.get(&w).unwrap().as_slice::<f32>().unwrap()
        );
    }

    #[test]
    fn a_budget_decides_how_much_is_kept_and_changes_no_bit() {
        let x = Tensor::new((0..4000).map(|i| (i % 13) as f32 * 0.1 - 0.6).collect(), &[1000, 4]);
        let weight = |name: &str, step: f32| {
            Param::trainable(name, Tensor::new((0..16).map(|i| (i % 5) as f32 * step - 0.5).collect(), &[4, 4]))
        };
        let (w, v) = (weight("w", 0.3), weight("v", 0.2));
        let run = |keep: Keep| {
            let tape = Tape::keeping(keep);
            let mut x = Var::constant(x.clone());
            for _ in 0..6 {
                x = block(&tape, &x, &w, &v);
            }
            let nodes = tape.record.as_ref().unwrap().borrow().len();
            let mut out = Gradients::new();
            tape.backward(&x, Tensor::full(1f32, &[1000, 4]), &[], &mut out).unwrap();
            (nodes, out.get(&w).unwrap().to_f32_vec().unwrap())
        };
        let (all, inputs) = (run(Keep::Everything), run(Keep::Inputs));
        // Other tests hold tensors too; they are far below these bounds.
        let (none, ample) = (run(Keep::Within(0)), run(Keep::Within(usize::MAX / 2)));
        assert_eq!((inputs.0, none.0, ample.0, all.0), (6, 6, 18, 18));
        assert!([&inputs.1, &none.1, &ample.1].into_iter().all(|gradient| *gradient == all.1));
    }

    #[test]
    fn gradients_accumulate_over_steps() {
        let (w, v) = (param("w", true, &[0.3, -0.7, 1.1, 0.2]), param("v", true, &[-0.4, 0.9, 0.6, 0.1]));
        let once = gradients(Tape::new(), &w, &v);
        let mut twice = gradients(Tape::new(), &w, &v);
        twice.accumulate(w.id(), once.get(&w).unwrap().clone()).unwrap();
        let (a, b) = (once.get(&w).unwrap(), twice.get(&w).unwrap());
        for (a, b) in a.as_slice::<f32>().unwrap().iter().zip(b.as_slice::<f32>().unwrap()) {
            assert_eq!(2.0 * a, *b);
        }
    }

    #[test]
    fn what_depends_on_nothing_trainable_is_not_recorded() {
        let (w, v) = (param("w", false, &[0.3, -0.7, 1.1, 0.2]), param("v", false, &[-0.4, 0.9, 0.6, 0.1]));
        let tape = Tape::new();
        let x = Var::constant(Tensor::new(vec![0.5f32, -1.0, 2.0, 0.25], &[2, 2]));
        let y = block(&tape, &x, &w, &v);
        assert!(!y.is_tracked());
        let error = tape.backward(&y, Tensor::full(1f32, &[2, 2]), &[], &mut Gradients::new()).unwrap_err();
        assert_eq!(error.code(), "INTERNAL");
    }
}
