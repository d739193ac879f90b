//! Values that carry their recording with them: for callers that cannot pass a [`Tape`] along, such as scripts.
//!
//! Every operation records onto a tape of its own, whose record is then spliced into the graph of its inputs.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::error::{Error, Result};
use crate::gradients::Gradients;
use crate::param::Param;
use crate::record::Record;
use crate::tape::{Tape, Var};
use crate::tensor::Tensor;

/// A tensor and, if something trainable led to it, its place in a graph.
///
/// ```
/// use flowtune_engine::{Error, Gradients, Param, Tape, Tensor, Value};
/// # fn main() -> flowtune_engine::Result<()> {
/// let weight = Param::trainable("w", Tensor::full(3f32, &[2]));
/// let w = Value::param(&weight);
/// let square = Value::apply::<Error>(Tape::new(), &[&w, &w], |tape, v| Ok(vec![tape.mul(&v[0], &v[1])?]))?.remove(0);
/// let mut gradients = Gradients::new();
/// square.backward(Tensor::full(1f32, &[2]), &mut gradients)?;
/// assert_eq!(gradients.get(&weight).unwrap().as_slice::<f32>()?, &[6., 6.]);
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct Value {
    tensor: Tensor,
    origin: Origin,
}

#[derive(Clone, Debug)]
enum Origin {
    Constant,
    Param(Param),
    Place(Place),
}

/// A slot of a graph's record, as it was numbered when the value was made.
#[derive(Clone, Debug)]
struct Place {
    graph: Graph,
    slot: usize,
}

/// What has been recorded; several values share it.
#[derive(Clone)]
struct Graph(Arc<Mutex<State>>);

enum State {
    Live(Record),
    /// Its record went into another graph, all slots higher by `offset`.
    Moved {
        to: Graph,
        offset: usize,
    },
    /// A backward used the record up.
    Spent,
}

/// Held while graphs are looked up, merged and spliced, which takes microseconds: with one lock for all of them, two
/// threads that merge the same graphs in opposite order cannot wait for each other.
static GRAPHS: Mutex<()> = Mutex::new(());

impl Value {
    /// A value that gets no gradient.
    pub fn constant(tensor: Tensor) -> Self {
        Self { tensor, origin: Origin::Constant }
    }

    /// The present value of a weight; tracked while the weight is trainable.
    pub fn param(param: &Param) -> Self {
        Self { tensor: param.value(), origin: Origin::Param(param.clone()) }
    }

    /// The tensor.
    pub fn tensor(&self) -> &Tensor {
        &self.tensor
    }

    /// Whether a gradient flows back through it.
    pub fn is_tracked(&self) -> bool {
        match &self.origin {
            Origin::Constant => false,
            Origin::Param(param) => param.is_trainable(),
            Origin::Place(_) => true,
        }
    }

    /// The same tensor without its graph.
    #[must_use]
    pub fn detach(&self) -> Self {
        Self::constant(self.tensor.clone())
    }

    /// Runs `op` on `inputs` and a fresh `tape`, and records what it did in the inputs' graph; the graphs of several
    /// inputs become one. Nothing is locked while `op` computes. With [`Tape::inference`] the outputs are constants.
    ///
    /// # Errors
    /// What `op` returns; `INVALID_ARGUMENT` when a backward has used up the graph of an input.
    pub fn apply<E: From<Error>>(
        tape: Tape,
        inputs: &[&Self],
        op: impl FnOnce(&Tape, &[Var]) -> Result<Vec<Var>, E>,
    ) -> Result<Vec<Self>, E> {
        let vars: Vec<Var> = inputs.iter().map(|input| input.on(&tape)).collect();
        let outputs = op(&tape, &vars)?;
        let places: Vec<(&Place, usize)> = inputs.iter().zip(&vars).filter_map(|(i, v)| i.place(v)).collect();
        Ok(splice(tape, &places, outputs)?)
    }

    /// Runs backwards from here with gradient `seed` of this tensor's shape, adding the weights' gradients to
    /// `gradients`. Uses up the graph: none of its values can be run backwards again.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` when nothing trainable led here, or the graph is used up; what the operations return.
    pub fn backward(&self, seed: Tensor, gradients: &mut Gradients) -> Result<()> {
        match &self.origin {
            Origin::Param(param) if param.is_trainable() => gradients.accumulate(param.id(), seed),
            Origin::Constant | Origin::Param(_) => Err(Error::Untracked),
            Origin::Place(place) => {
                let (record, slot) = place.take()?;
                record.unwind(vec![(Some(slot), seed)], &[], gradients).map(drop)
            }
        }
    }

    /// This value as an input of an operation on `tape`.
    fn on(&self, tape: &Tape) -> Var {
        match &self.origin {
            Origin::Constant => Var::constant(self.tensor.clone()),
            Origin::Param(param) => tape.param(param),
            Origin::Place(_) => tape.leaf(self.tensor.clone()),
        }
    }

    /// Its place in a graph, with its slot on the operation's tape.
    fn place(&self, var: &Var) -> Option<(&Place, usize)> {
        match &self.origin {
            Origin::Place(place) => var.slot().map(|slot| (place, slot)),
            _ => None,
        }
    }
}

/// Puts what `tape` recorded behind the values at `places`, whose slots on the tape stand beside them.
fn splice(tape: Tape, places: &[(&Place, usize)], outputs: Vec<Var>) -> Result<Vec<Value>> {
    let tracked = outputs.iter().any(Var::is_tracked);
    let Some(record) = tape.into_record().filter(|_| tracked) else {
        return Ok(outputs.into_iter().map(|output| Value::constant(output.into_tensor())).collect());
    };
    let _exclusive = GRAPHS.lock().unwrap_or_else(PoisonError::into_inner);
    let mut graph: Option<Graph> = None;
    for (place, _) in places {
        let (other, _) = place.find()?;
        graph = Some(match graph {
            Some(graph) => graph.merge(other),
            None => other,
        });
    }
    let graph = graph.unwrap_or_else(|| Graph(Arc::new(Mutex::new(State::Live(Record::default())))));
    let mut bound = HashMap::with_capacity(places.len());
    for (place, leaf) in places {
        bound.insert(*leaf, place.find()?.1);
    }
    let offset = graph.absorb(record, &bound);
    let value = |output: Var| {
        let slot = output.slot().map(|slot| bound.get(&slot).copied().unwrap_or(slot + offset));
        let origin = slot.map_or(Origin::Constant, |slot| Origin::Place(Place { graph: graph.clone(), slot }));
        Value { tensor: output.into_tensor(), origin }
    };
    Ok(outputs.into_iter().map(value).collect())
}

impl Place {
    /// The graph that now has the record, and the slot in it.
    fn find(&self) -> Result<(Graph, usize)> {
        let (mut graph, mut slot) = (self.graph.clone(), self.slot);
        loop {
            let next = match &*graph.lock() {
                State::Live(_) => None,
                State::Moved { to, offset } => Some((to.clone(), *offset)),
                State::Spent => return Err(Error::Spent),
            };
            match next {
                Some((to, offset)) => (graph, slot) = (to, slot + offset),
                None => return Ok((graph, slot)),
            }
        }
    }

    /// The record and the slot in it; the graph has none from now on.
    fn take(&self) -> Result<(Record, usize)> {
        let _exclusive = GRAPHS.lock().unwrap_or_else(PoisonError::into_inner);
        let (graph, slot) = self.find()?;
        match graph.replace(State::Spent) {
            State::Live(record) => Ok((record, slot)),
            State::Moved { .. } | State::Spent => Err(Error::Spent),
        }
    }
}

impl Graph {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it holds the lock.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn replace(&self, state: State) -> State {
        std::mem::replace(&mut *self.lock(), state)
    }

    fn len(&self) -> usize {
        match &*self.lock() {
            State::Live(record) => record.len(),
            _ => 0,
        }
    }

    /// Moves the smaller record behind the larger one, and returns the graph that has both. The smaller into the
    /// larger: so a record moves at most as often as its size doubles.
    fn merge(self, other: Self) -> Self {
        if Arc::ptr_eq(&self.0, &other.0) {
            return self;
        }
        let (large, small) = if self.len() >= other.len() { (self, other) } else { (other, self) };
        if let State::Live(record) = small.replace(State::Spent) {
            let offset = large.absorb(record, &HashMap::new());
            drop(small.replace(State::Moved { to: large.clone(), offset }));
        }
        large
    }

    /// Appends a record, its slots in `bound` being slots of this one; returns what was added to the others.
    fn absorb(&self, record: Record, bound: &HashMap<usize, usize>) -> usize {
        match &mut *self.lock() {
            State::Live(own) => own.absorb(record, bound),
            _ => 0,
        }
    }
}

impl std::fmt::Debug for Graph {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Graph({:p})", Arc::as_ptr(&self.0))
    }
}

#[cfg(test)]
mod tests;
