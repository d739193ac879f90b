//! What a tape has recorded.

use std::collections::HashMap;

use crate::error::Result;
use crate::gradients::Gradients;
use crate::ops::elementwise::add_tensors;
use crate::param::ParamId;
use crate::tensor::Tensor;

/// Backward of a recorded node: gradients of its outputs in, gradients of its inputs out. Weights inside a
/// checkpoint go straight to the [`Gradients`].
pub(crate) type Backward = Box<dyn FnOnce(Vec<Option<Tensor>>, &mut Gradients) -> Result<Vec<Option<Tensor>>> + Send>;

struct Node {
    inputs: Vec<Option<usize>>,
    outputs: Vec<usize>,
    backward: Backward,
}

/// What a tape has recorded: operations in order, over numbered slots for gradients.
#[derive(Default)]
pub(crate) struct Record {
    nodes: Vec<Node>,
    slots: usize,
    /// Slots of each weight: one, and more after records were joined.
    params: HashMap<ParamId, Vec<usize>>,
}

impl Record {
    /// How many operations there are.
    pub(crate) fn len(&self) -> usize {
        self.nodes.len()
    }

    /// A slot that nothing has yet.
    pub(crate) fn new_slot(&mut self) -> usize {
        self.slots += 1;
        self.slots - 1
    }

    /// The slot of a weight.
    pub(crate) fn slot_of(&mut self, id: ParamId) -> usize {
        if let Some(slots) = self.params.get(&id) {
            return slots[0];
        }
        let slot = self.new_slot();
        self.params.insert(id, vec![slot]);
        slot
    }

    /// Appends an operation.
    pub(crate) fn push(&mut self, inputs: Vec<Option<usize>>, outputs: Vec<usize>, backward: Backward) {
        self.nodes.push(Node { inputs, outputs, backward });
    }

    /// Appends `other`. Its slots in `bound` are slots of this record; the others become higher by what is returned.
    pub(crate) fn absorb(&mut self, other: Self, bound: &HashMap<usize, usize>) -> usize {
        let offset = self.slots;
        let slot = |s: usize| bound.get(&s).copied().unwrap_or(s + offset);
        self.slots += other.slots;
        self.nodes.extend(other.nodes.into_iter().map(|node| Node {
            inputs: node.inputs.into_iter().map(|input| input.map(slot)).collect(),
            outputs: node.outputs.into_iter().map(slot).collect(),
            backward: node.backward,
        }));
        for (id, slots) in other.params {
            self.params.entry(id).or_default().extend(slots.into_iter().map(slot));
        }
        offset
    }

    /// Runs backwards from `seeds`, adding the weights' gradients to `gradients` and freeing as it goes. Returns the
    /// gradients of the slots of `leaves`.
    pub(crate) fn unwind(
        mut self,
        seeds: Vec<(Option<usize>, Tensor)>,
        leaves: &[Option<usize>],
        gradients: &mut Gradients,
    ) -> Result<Vec<Option<Tensor>>> {
        let mut slots: Vec<Option<Tensor>> = vec![None; self.slots];
        for (slot, seed) in seeds {
            add_to_slot(&mut slots, slot, Some(seed))?;
        }
        while let Some(node) = self.nodes.pop() {
            let outputs: Vec<_> = node.outputs.iter().map(|&o| slots[o].take()).collect();
            if outputs.iter().all(Option::is_none) {
                continue;
            }
            let inputs = (node.backward)(outputs, gradients)?;
            for (slot, gradient) in node.inputs.into_iter().zip(inputs) {
                add_to_slot(&mut slots, slot, gradient)?;
            }
        }
        for (id, of_param) in self.params {
            for slot in of_param {
                if let Some(gradient) = slots[slot].take() {
                    gradients.accumulate(id, gradient)?;
                }
            }
        }
        Ok(leaves.iter().map(|leaf| leaf.and_then(|s| slots[s].take())).collect())
    }
}

fn add_to_slot(slots: &mut [Option<Tensor>], slot: Option<usize>, gradient: Option<Tensor>) -> Result<()> {
    let (Some(slot), Some(gradient)) = (slot, gradient) else {
        return Ok(());
    };
    match &mut slots[slot] {
        Some(total) => *total = add_tensors(total, &gradient)?,
        empty => *empty = Some(gradient),
    }
    Ok(())
}
