//! Rehearsals: the run's own sequence of allocations over tensors that have a size and nothing else. A rehearsal of a step
//! takes microseconds, whatever the model, and gives the most that is in memory at once, and the operations.

mod ledger;
mod ops;
mod step;
mod tape;
mod text;
mod transformer;
mod vae;

pub use ledger::Component;
pub(super) use ledger::{Ghost, Ledger, Operations};
pub(super) use step::{Denoising, Sampling, Step, Training};
pub(super) use text::encode_text;
pub(super) use transformer::Sequence;
pub(super) use vae::Vae;
