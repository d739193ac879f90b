//! What can go wrong between a folder of images and a batch.

use std::io;
use std::path::{Path, PathBuf};

/// Result of a call of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A data error; [`Error::code`] is stable and reaches JavaScript.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An image, a caption or a folder of the user's.
    #[error("{}: {reason}", path.display())]
    Unreadable {
        /// The file or folder.
        path: PathBuf,
        /// What is wrong with it, and what to do.
        reason: String,
    },
    /// A file could not be read or written.
    #[error("{}: {}", path.display(), explain_io(action, source))]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What was tried, after "cannot".
        action: &'static str,
        /// Why not.
        source: io::Error,
    },
    /// A cache entry that is damaged or gone.
    #[error("{}: {reason}", path.display())]
    CacheStale {
        /// The entry.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// An argument that no data can satisfy.
    #[error("{0}")]
    InvalidArgument(String),
    /// The work was asked to stop.
    #[error("stopped while preparing the data; what is already cached stays")]
    Cancelled,
    /// A model, or a file in safetensors form.
    #[error(transparent)]
    Model(#[from] flowtune_models::Error),
    /// The engine refused.
    #[error(transparent)]
    Engine(#[from] flowtune_engine::Error),
}

impl Error {
    /// Stable code of this error.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Unreadable { .. } => "DATA_UNREADABLE",
            Self::Io { .. } => "IO",
            Self::CacheStale { .. } => "CACHE_STALE",
            Self::InvalidArgument(_) => "INVALID_ARGUMENT",
            Self::Cancelled => "CANCELLED",
            Self::Model(e) => e.code(),
            Self::Engine(e) => e.code(),
        }
    }

    /// [`Error::Unreadable`] in one call.
    pub fn unreadable(path: &Path, reason: impl Into<String>) -> Self {
        Self::Unreadable { path: path.to_path_buf(), reason: reason.into() }
    }

    /// A cache entry that vanished after it was made.
    pub(crate) fn gone(path: PathBuf) -> Self {
        Self::CacheStale { path, reason: "is gone; start again to have it made again".into() }
    }

    /// Turns an [`io::Error`] on `path` into [`Error::Io`]; `action` follows "cannot".
    pub fn io(path: &Path, action: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { path: path.to_path_buf(), action, source }
    }
}

/// "cannot be written (No space left on device); free some space and try again".
fn explain_io(action: &str, source: &io::Error) -> String {
    let advice = match source.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => "; free some space and try again",
        io::ErrorKind::PermissionDenied => "; check its permissions",
        _ => "",
    };
    format!("cannot be {action} ({source}){advice}")
}
