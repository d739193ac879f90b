//! What can go wrong in a run.

use std::path::{Path, PathBuf};

/// Result of a call of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error of a run; [`Error::code`] is stable and reaches JavaScript.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A key or a value of a recipe; the message names it in backticks.
    #[error("{0}")]
    Recipe(String),
    /// An argument that cannot be met.
    #[error("{0}")]
    InvalidArgument(String),
    /// A checkpoint or a run folder that is not what it should be.
    #[error("{}: {reason}", path.display())]
    CheckpointLayout {
        /// The file or folder.
        path: PathBuf,
        /// What is wrong, and what to do.
        reason: String,
    },
    /// A loss or a gradient that is not finite, or a loss that is too large; no weight was touched by it.
    #[error(
        "the {what} at step {step} is {value}, but must be {allowed}; lower optimizer.lr in the recipe and start again, \
         or lower it in the run folder's recipe.yaml and resume from the last checkpoint"
    )]
    LossDiverged {
        /// `loss` or `gradient norm`.
        what: &'static str,
        /// Step, counted from 1.
        step: u64,
        /// Its value.
        value: f64,
        /// What is allowed, in words.
        allowed: String,
    },
    /// A run that takes more memory than there is; the message says what to switch.
    #[error("{0}")]
    OutOfMemory(String),
    /// The run was asked to stop.
    #[error("stopped as asked{}", saved(checkpoint))]
    Cancelled {
        /// The checkpoint to resume from, if there is one.
        checkpoint: Option<PathBuf>,
    },
    /// A bug in flowtune.
    #[error("{0}; this is a bug in flowtune, please report it")]
    Internal(String),
    /// Of the data crate: images, captions, cache, files.
    #[error(transparent)]
    Data(#[from] flowtune_data::Error),
    /// Of the hub that a model comes from.
    #[error(transparent)]
    Hub(#[from] flowtune_hub::Error),
    /// Of the models: weights, their files, prompts.
    #[error(transparent)]
    Model(#[from] flowtune_models::Error),
    /// Of the flow-matching step.
    #[error(transparent)]
    Flow(#[from] flowtune_flow::Error),
    /// Of the engine.
    #[error(transparent)]
    Engine(#[from] flowtune_engine::Error),
}

impl Error {
    /// Stable code of this error.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Recipe(_) => "RECIPE_INVALID",
            Self::InvalidArgument(_) => "INVALID_ARGUMENT",
            Self::CheckpointLayout { .. } => "CHECKPOINT_LAYOUT",
            Self::LossDiverged { .. } => "LOSS_DIVERGED",
            Self::OutOfMemory(_) => "OUT_OF_MEMORY",
            Self::Cancelled { .. } => "CANCELLED",
            Self::Internal(_) => "INTERNAL",
            Self::Data(e) => e.code(),
            Self::Hub(e) => e.code(),
            Self::Model(e) => e.code(),
            Self::Flow(e) => e.code(),
            Self::Engine(e) => e.code(),
        }
    }

    /// Turns an [`std::io::Error`] on `path` into one of code `IO`; `action` follows "cannot be".
    pub fn io(path: &Path, action: &'static str) -> impl FnOnce(std::io::Error) -> Self {
        move |source| flowtune_data::Error::io(path, action)(source).into()
    }

    /// [`Error::CheckpointLayout`] in one call.
    pub fn layout(path: &Path, reason: impl Into<String>) -> Self {
        Self::CheckpointLayout { path: path.to_path_buf(), reason: reason.into() }
    }
}

fn saved(checkpoint: &Option<PathBuf>) -> String {
    checkpoint.as_ref().map(|path| format!("; resume from {}", path.display())).unwrap_or_default()
}
