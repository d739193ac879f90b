//! The engine's tape over ghosts: what it keeps, when it frees, which blocks it computes again.
//! What happens here must happen in `flowtune_engine::Tape`, and is compared with it by `npm run bench -- plan`.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap};

use flowtune_engine::Keep;

use super::ledger::{Component, Ghost, Ledger};

/// A ghost and its place on the tape.
#[derive(Debug, Clone)]
pub(crate) struct Var {
    pub(crate) ghost: Ghost,
    slot: Option<usize>,
    /// If a backward makes it again: what is kept for that and for nothing else.
    made_of: Option<Vec<Ghost>>,
}

/// What a backward keeps of a value: itself, or what it is made of again.
#[derive(Debug, Clone)]
pub(crate) enum Saved {
    Value(Ghost),
    Made { elements: usize, size: usize, of: Vec<Ghost> },
}

impl Saved {
    /// The value.
    pub(crate) fn get(&self, ledger: &Ledger) -> Ghost {
        match self {
            Self::Value(ghost) => ghost.clone(),
            Self::Made { elements, size, .. } => ledger.tensor(Component::Work, *elements, *size),
        }
    }

    /// What is in memory for it.
    pub(crate) fn kept(&self) -> &[Ghost] {
        match self {
            Self::Value(ghost) => std::slice::from_ref(ghost),
            Self::Made { of, .. } => of,
        }
    }
}

impl Var {
    pub(crate) fn constant(ghost: Ghost) -> Self {
        Self::at(None, ghost)
    }

    fn at(slot: Option<usize>, ghost: Ghost) -> Self {
        Self { ghost, slot, made_of: None }
    }

    pub(crate) fn saved(&self) -> Saved {
        match &self.made_of {
            Some(of) => Saved::Made { elements: self.ghost.elements(), size: self.ghost.size(), of: of.clone() },
            None => Saved::Value(self.ghost.clone()),
        }
    }

    pub(crate) fn is_made_again(&self) -> bool {
        self.made_of.is_some()
    }

    pub(crate) fn is_tracked(&self) -> bool {
        self.slot.is_some()
    }
}

/// Number of a weight.
pub(crate) type ParamId = usize;

/// Gradients of weights.
#[derive(Debug, Default)]
pub(crate) struct Gradients(BTreeMap<ParamId, Ghost>);

impl Gradients {
    fn accumulate(&mut self, ledger: &Ledger, id: ParamId, gradient: Ghost) {
        let sum = self.0.get(&id).map(|_| ledger.tensor(Component::Gradients, gradient.elements(), gradient.size()));
        self.0.insert(id, sum.unwrap_or(gradient));
    }
}

type Backward = Box<dyn FnOnce(Vec<Option<Ghost>>, &mut Gradients) -> Vec<Option<Ghost>>>;

struct Node {
    inputs: Vec<Option<usize>>,
    outputs: Vec<usize>,
    backward: Backward,
}

#[derive(Default)]
struct Record {
    nodes: Vec<Node>,
    slots: usize,
    params: HashMap<ParamId, usize>,
}

/// A tape over ghosts.
pub(crate) struct Tape {
    ledger: Ledger,
    record: Option<RefCell<Record>>,
    keep: Keep,
    largest: Cell<usize>,
    lean: bool,
    saw_trainable: Cell<bool>,
}

impl Tape {
    pub(crate) fn keeping(ledger: &Ledger, keep: Keep) -> Self {
        let (record, lean) = (Some(RefCell::default()), matches!(keep, Keep::Within(_)));
        let ledger = ledger.clone();
        Self { ledger, record, keep, largest: Cell::new(0), lean, saw_trainable: Cell::new(false) }
    }

    pub(crate) fn inference(ledger: &Ledger) -> Self {
        Self { record: None, ..Self::keeping(ledger, Keep::Everything) }
    }

    pub(crate) fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// The slot of a weight that trains.
    pub(super) fn param(&self, id: ParamId, ghost: &Ghost) -> Var {
        self.saw_trainable.set(true);
        let slot = self.record.as_ref().map(|record| {
            let Record { slots, params, .. } = &mut *record.borrow_mut();
            *params.entry(id).or_insert_with(|| next(slots))
        });
        Var::at(slot, ghost.clone())
    }

    fn leaf(&self, ghost: Ghost) -> Var {
        let slot = self.record.as_ref().map(|record| next(&mut record.borrow_mut().slots));
        Var::at(slot, ghost)
    }

    /// Records an operation with one output, if one of its inputs is tracked. `kept` are marked as activations.
    pub(super) fn record<F, B>(&self, inputs: &[&Var], value: Ghost, kept: &[&Ghost], backward: F) -> Var
    where
        F: FnOnce(Vec<bool>) -> B,
        B: FnOnce(Ghost) -> Vec<Option<Ghost>> + 'static,
    {
        self.record_many(inputs, vec![value], kept, |needs| {
            let backward = backward(needs);
            move |mut gradients: Vec<Option<Ghost>>| gradients.pop().flatten().map(backward).unwrap_or_default()
        })
        .remove(0)
    }

    /// As [`Tape::record`], with several outputs.
    pub(super) fn record_many<F, B>(
        &self,
        inputs: &[&Var],
        values: Vec<Ghost>,
        kept: &[&Ghost],
        backward: F,
    ) -> Vec<Var>
    where
        F: FnOnce(Vec<bool>) -> B,
        B: FnOnce(Vec<Option<Ghost>>) -> Vec<Option<Ghost>> + 'static,
    {
        if self.record.is_none() || !inputs.iter().any(|v| v.is_tracked()) {
            return values.into_iter().map(Var::constant).collect();
        }
        kept.iter().for_each(|ghost| ghost.becomes(Component::Activations));
        let backward = backward(inputs.iter().map(|v| v.is_tracked()).collect());
        let run: Backward = Box::new(move |gradients, _| backward(gradients));
        self.push(inputs.iter().map(|v| v.slot).collect(), values, run)
    }

    /// `value` as one that costs little to make again, of these and of what is kept anyway.
    pub(super) fn cheap(&self, value: Var, of: Vec<Ghost>) -> Var {
        let made_of = (self.lean && value.is_tracked()).then_some(of);
        Var { made_of, ..value }
    }

    fn push(&self, inputs: Vec<Option<usize>>, values: Vec<Ghost>, backward: Backward) -> Vec<Var> {
        let Some(record) = &self.record else {
            return values.into_iter().map(Var::constant).collect();
        };
        let record = &mut *record.borrow_mut();
        let vars: Vec<Var> = values.into_iter().map(|ghost| Var::at(Some(next(&mut record.slots)), ghost)).collect();
        record.nodes.push(Node { inputs, outputs: vars.iter().filter_map(|v| v.slot).collect(), backward });
        vars
    }

    /// A block of which everything is kept, or only the inputs.
    pub(crate) fn checkpoint<F>(&self, inputs: &[Var], f: F) -> Vec<Var>
    where
        F: Fn(&Self, &[Var]) -> Vec<Var> + 'static,
    {
        if self.record.is_none() || self.keeps_next() {
            let before = self.ledger.tensor_bytes();
            let outputs = f(self, inputs);
            self.largest.set(self.largest.get().max(self.ledger.tensor_bytes().saturating_sub(before)));
            return outputs;
        }
        let inner = Self::inference(&self.ledger);
        let constants: Vec<Var> = inputs.iter().map(|v| Var::constant(v.ghost.clone())).collect();
        let values: Vec<Ghost> = f(&inner, &constants).into_iter().map(|v| v.ghost).collect();
        if !inner.saw_trainable.get() && !inputs.iter().any(Var::is_tracked) {
            return values.into_iter().map(Var::constant).collect();
        }
        self.saw_trainable.set(true);
        let slots = inputs.iter().map(|v| v.slot).collect();
        let saved = inputs.to_vec();
        saved.iter().for_each(|v| v.ghost.becomes(Component::Activations));
        let (ledger, lean) = (self.ledger.clone(), self.lean);
        let run: Backward = Box::new(move |gradients, sink| recompute(&ledger, &f, &saved, lean, gradients, sink));
        self.push(slots, values, run)
    }

    fn keeps_next(&self) -> bool {
        match self.keep {
            Keep::Everything => true,
            Keep::Inputs => false,
            Keep::Within(budget) => self.ledger.tensor_bytes() + 2 * self.largest.get() <= budget,
        }
    }

    /// Backwards from a scalar.
    pub(crate) fn backward(self, output: &Var, gradients: &mut Gradients) {
        let seed = self.ledger.tensor(Component::Work, 1, 4);
        self.unwind(vec![(output.slot, seed)], &[], gradients);
    }

    fn unwind(self, seeds: Vec<(Option<usize>, Ghost)>, leaves: &[Var], sink: &mut Gradients) -> Vec<Option<Ghost>> {
        let Self { ledger, record, .. } = self;
        let Some(mut record) = record.map(RefCell::into_inner) else { return Vec::new() };
        let mut slots: Vec<Option<Ghost>> = vec![None; record.slots];
        for (slot, seed) in seeds {
            add_to_slot(&ledger, &mut slots, slot, Some(seed));
        }
        while let Some(node) = record.nodes.pop() {
            let outputs: Vec<_> = node.outputs.iter().map(|&o| slots[o].take()).collect();
            if outputs.iter().all(Option::is_none) {
                continue;
            }
            let inputs = (node.backward)(outputs, sink);
            for (slot, gradient) in node.inputs.into_iter().zip(inputs) {
                add_to_slot(&ledger, &mut slots, slot, gradient);
            }
        }
        for (id, slot) in record.params {
            if let Some(gradient) = slots[slot].take() {
                gradient.becomes(Component::Gradients);
                sink.accumulate(&ledger, id, gradient);
            }
        }
        leaves.iter().map(|v| v.slot.and_then(|s| slots[s].take())).collect()
    }
}

fn next(slots: &mut usize) -> usize {
    *slots += 1;
    *slots - 1
}

fn add_to_slot(ledger: &Ledger, slots: &mut [Option<Ghost>], slot: Option<usize>, gradient: Option<Ghost>) {
    let (Some(slot), Some(gradient)) = (slot, gradient) else { return };
    let sum = slots[slot].as_ref().map(|total| ledger.tensor(Component::Work, total.elements(), total.size()));
    slots[slot] = Some(sum.unwrap_or(gradient));
}

fn recompute<F>(
    ledger: &Ledger,
    f: &F,
    saved: &[Var],
    lean: bool,
    output_gradients: Vec<Option<Ghost>>,
    sink: &mut Gradients,
) -> Vec<Option<Ghost>>
where
    F: Fn(&Tape, &[Var]) -> Vec<Var>,
{
    let tape = Tape { lean, ..Tape::keeping(ledger, Keep::Inputs) };
    let inputs: Vec<Var> = saved
        .iter()
        .map(|v| if v.is_tracked() { tape.leaf(v.ghost.clone()) } else { Var::constant(v.ghost.clone()) })
        .collect();
    let outputs = f(&tape, &inputs);
    let seeds = outputs.iter().zip(output_gradients).filter_map(|(o, g)| g.map(|g| (o.slot, g))).collect();
    drop(outputs);
    tape.unwind(seeds, &inputs, sink)
}
