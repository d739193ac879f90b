//! Room that tensors would take, without the memory.

use std::cell::{Cell, RefCell};
use std::ops::AddAssign;
use std::rc::Rc;

use flowtune_engine::TensorAllocator;
use serde::Serialize;

/// What memory is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Component {
    /// Node and the addon, before anything is loaded.
    Process,
    /// The text encoder.
    TextEncoder,
    /// The VAE.
    Vae,
    /// The transformer; for full fine-tuning what is trained too.
    Transformer,
    /// The adapters of a LoRA.
    Lora,
    /// Moments of the optimizer.
    Optimizer,
    /// Latents and text embeddings in memory.
    Data,
    /// Gradients of what trains.
    Gradients,
    /// What a forward keeps for its backward.
    Activations,
    /// Everything that an operation needs while it runs.
    Work,
}

/// How many components there are.
const COMPONENTS: usize = Component::Work as usize + 1;

impl Component {
    const ALL: [Self; COMPONENTS] = [
        Self::Process,
        Self::TextEncoder,
        Self::Vae,
        Self::Transformer,
        Self::Lora,
        Self::Optimizer,
        Self::Data,
        Self::Gradients,
        Self::Activations,
        Self::Work,
    ];
}

/// Bytes by component.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Usage([usize; COMPONENTS]);

impl Usage {
    pub(crate) fn total(&self) -> usize {
        self.0.iter().sum()
    }

    /// Components that take something, with their bytes.
    pub(crate) fn parts(&self) -> impl Iterator<Item = (Component, usize)> {
        Component::ALL.into_iter().zip(self.0).filter(|(_, bytes)| *bytes > 0)
    }
}

/// Floating-point operations of matrix products; a multiply-add is two.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Operations {
    /// In the type of the activations.
    pub(crate) plain: f64,
    /// With weights in fewer bits.
    pub(crate) quantised: f64,
}

impl Operations {
    pub(crate) fn minus(self, other: Self) -> Self {
        Self { plain: self.plain - other.plain, quantised: self.quantised - other.quantised }
    }

    pub(crate) fn times(self, factor: f64) -> Self {
        Self { plain: self.plain * factor, quantised: self.quantised * factor }
    }
}

impl AddAssign for Operations {
    fn add_assign(&mut self, other: Self) {
        self.plain += other.plain;
        self.quantised += other.quantised;
    }
}

/// What is in memory and at most was, and what has been computed. Clones are the same ledger.
#[derive(Debug, Clone, Default)]
pub(crate) struct Ledger(Rc<Book>);

#[derive(Debug, Default)]
struct Book {
    live: RefCell<Usage>,
    peak: RefCell<Usage>,
    /// Bytes of what the engine counts as tensors.
    tensors: Cell<usize>,
    operations: Cell<Operations>,
}

impl Ledger {
    /// A tensor of `elements` of `size` bytes each.
    pub(crate) fn tensor(&self, component: Component, elements: usize, size: usize) -> Ghost {
        self.hold(component, elements, size, true)
    }

    /// A buffer: what is no tensor for the engine, and does not count for its memory budget.
    pub(crate) fn buffer(&self, component: Component, bytes: usize) -> Ghost {
        self.hold(component, bytes, 1, false)
    }

    fn hold(&self, component: Component, elements: usize, size: usize, is_tensor: bool) -> Ghost {
        let room = Room { ledger: self.clone(), component: Cell::new(component), bytes: elements * size, is_tensor };
        self.0.live.borrow_mut().0[component as usize] += room.block();
        if is_tensor {
            self.0.tensors.set(self.0.tensors.get() + room.bytes);
        }
        self.look();
        Ghost { room: Rc::new(room), elements }
    }

    /// Memory that an operation takes while it runs, beside what is live.
    pub(crate) fn scratch(&self, bytes: usize) {
        drop(self.buffer(Component::Work, bytes));
    }

    fn look(&self) {
        let live = self.0.live.borrow();
        if live.total() > self.0.peak.borrow().total() {
            *self.0.peak.borrow_mut() = *live;
        }
    }

    /// The most that was in memory at once, by what it was for.
    pub(crate) fn peak(&self) -> Usage {
        *self.0.peak.borrow()
    }

    /// [`flowtune_engine::live_bytes`].
    pub(crate) fn tensor_bytes(&self) -> usize {
        self.0.tensors.get()
    }

    /// Counts operations.
    pub(crate) fn compute(&self, more: Operations) {
        let mut sum = self.0.operations.get();
        sum += more;
        self.0.operations.set(sum);
    }

    /// Everything computed so far.
    pub(crate) fn operations(&self) -> Operations {
        self.0.operations.get()
    }
}

/// A tensor of which only the size is there. Clones share the room; it is free when the last one goes.
#[derive(Debug, Clone)]
pub(crate) struct Ghost {
    room: Rc<Room>,
    elements: usize,
}

#[derive(Debug)]
struct Room {
    ledger: Ledger,
    component: Cell<Component>,
    bytes: usize,
    is_tensor: bool,
}

impl Room {
    /// Bytes of memory.
    fn block(&self) -> usize {
        TensorAllocator::block_size(self.bytes)
    }
}

impl Ghost {
    pub(crate) fn elements(&self) -> usize {
        self.elements
    }

    /// Bytes of an element.
    pub(crate) fn size(&self) -> usize {
        self.room.bytes / self.elements.max(1)
    }

    /// The same room for another purpose, if nothing lasting took it yet.
    pub(crate) fn becomes(&self, component: Component) {
        if self.room.component.get() == Component::Work {
            let mut live = self.room.ledger.0.live.borrow_mut();
            live.0[Component::Work as usize] -= self.room.block();
            live.0[component as usize] += self.room.block();
            self.room.component.set(component);
        }
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        let book = &self.ledger.0;
        book.live.borrow_mut().0[self.component.get() as usize] -= self.block();
        if self.is_tensor {
            book.tensors.set(book.tensors.get() - self.bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_peak_is_what_was_there_at_once() {
        let ledger = Ledger::default();
        let kept = ledger.tensor(Component::Transformer, 10, 4);
        let other = kept.clone();
        drop(kept);
        ledger.scratch(7);
        let work = ledger.tensor(Component::Work, 3, 2);
        work.becomes(Component::Activations);
        assert_eq!(ledger.peak().total(), 47);
        let buffer = ledger.buffer(Component::Work, 9);
        assert_eq!(ledger.tensor_bytes(), 46);
        let parts: Vec<_> = ledger.peak().parts().collect();
        assert_eq!(parts, [(Component::Transformer, 40), (Component::Activations, 6), (Component::Work, 9)]);
        drop((other, work, buffer));
        assert_eq!((ledger.tensor_bytes(), ledger.peak().total()), (0, 55));
        assert_eq!(ledger.0.live.borrow().total(), 0);
    }
}
