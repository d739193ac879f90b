//! From a recipe to a run: optimizer, schedule, checkpoints, evaluation, events, report.
//!
//! [`resolve_recipe`] checks a recipe; the run tells its [`Event`]s through a [`Control`] and leaves a
//! [`RunFolder`].

mod control;
mod error;
mod event;
mod imaging;
mod lr_schedule;
mod optimizer;
pub mod plot;
mod recipe;
pub mod report;
mod run_folder;
pub mod verify;

pub use control::Control;
pub use error::{Error, Result};
pub use event::{Event, SigmaLoss, TrainSummary};
pub use lr_schedule::LrSchedule;
pub use optimizer::AdamW;
pub use recipe::*;
pub use run_folder::{Checkpoint, RunFolder, list_checkpoints, read_events, read_recipe};
