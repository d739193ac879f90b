//! What can go wrong with models and their files.

use std::io;
use std::path::{Path, PathBuf};

/// Result of a call into this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A model error; [`Error::code`] is stable and reaches JavaScript.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A tensor that the model needs is not in the checkpoint.
    #[error("{file} has no tensor {tensor}: it holds another model, or is incomplete; download it again")]
    WeightsMissing {
        /// File or folder that was searched.
        file: String,
        /// Full checkpoint name.
        tensor: String,
    },
    /// A tensor of the checkpoint does not fit the configuration.
    #[error(
        "{file}: tensor {tensor} must have shape {expected:?}, but has {got:?}: \
         config.json and the weights belong to different models"
    )]
    ShapeMismatch {
        /// File that holds the tensor.
        file: String,
        /// Full checkpoint name.
        tensor: String,
        /// Shape that the configuration asks for.
        expected: Vec<usize>,
        /// Shape in the file.
        got: Vec<usize>,
    },
    /// A file of a checkpoint is absent, damaged, or of a layout that is not supported.
    #[error("{}: {problem}", file.display())]
    CheckpointLayout {
        /// The file.
        file: PathBuf,
        /// What is wrong and what to do.
        problem: String,
    },
    /// An input cannot be turned into what the model takes.
    #[error("{what}: {problem}")]
    DataUnreadable {
        /// The input, e.g. the beginning of a prompt.
        what: String,
        /// What is wrong and what to do.
        problem: String,
    },
    /// The operating system refused.
    #[error("{}: {source}", path.display())]
    Io {
        /// File or folder concerned.
        path: PathBuf,
        /// Its answer.
        source: io::Error,
    },
    /// An engine operation failed.
    #[error(transparent)]
    Engine(#[from] flowtune_engine::Error),
}

impl Error {
    /// Stable code of this error.
    pub fn code(&self) -> &'static str {
        match self {
            Self::WeightsMissing { .. } => "WEIGHTS_MISSING",
            Self::ShapeMismatch { .. } => "SHAPE_MISMATCH",
            Self::CheckpointLayout { .. } => "CHECKPOINT_LAYOUT",
            Self::DataUnreadable { .. } => "DATA_UNREADABLE",
            Self::Io { .. } => "IO",
            Self::Engine(e) => e.code(),
        }
    }
}

/// A [`Error::CheckpointLayout`] in one call.
pub(crate) fn layout_error(file: &Path, problem: impl Into<String>) -> Error {
    Error::CheckpointLayout { file: file.to_path_buf(), problem: problem.into() }
}

/// Attaches `path` to an I/O error; for `map_err`.
pub(crate) fn io_error(path: &Path) -> impl FnOnce(io::Error) -> Error + '_ {
    move |source| Error::Io { path: path.to_path_buf(), source }
}
