//! What can go wrong between a hub and a folder.

use std::io;
use std::path::{Path, PathBuf};

/// Result of a call into this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A hub error; [`Error::code`] is stable and reaches JavaScript.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The hub cannot be reached, is out of order, or may not be asked, and the cache lacks what is needed.
    #[error("{0}")]
    Unavailable(String),
    /// The hub wants a licence to be accepted, or a token.
    #[error("{0}")]
    Gated(String),
    /// The hub has no such model, revision or file.
    #[error("{0}")]
    NotFound(String),
    /// What came is not what the hub announced.
    #[error("{0}")]
    Corrupt(String),
    /// A reference or a setting that means nothing.
    #[error("{0}")]
    InvalidArgument(String),
    /// The cache cannot be read or written.
    #[error("{}: {}", path.display(), explain_io(action, source))]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What was tried, after "cannot be".
        action: &'static str,
        /// Why not.
        source: io::Error,
    },
    /// The download was asked to stop.
    #[error("stopped while downloading; what is downloaded stays, and the next attempt goes on from there")]
    Cancelled,
}

impl Error {
    /// Stable code of this error.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Unavailable(_) => "HUB_UNAVAILABLE",
            Self::Gated(_) => "HUB_GATED",
            Self::NotFound(_) => "HUB_NOT_FOUND",
            Self::Corrupt(_) => "HUB_CORRUPT",
            Self::InvalidArgument(_) => "INVALID_ARGUMENT",
            Self::Io { .. } => "IO",
            Self::Cancelled => "CANCELLED",
        }
    }

    /// Turns an [`io::Error`] on `path` into [`Error::Io`]; `action` follows "cannot be".
    pub(crate) fn io(path: &Path, action: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { path: path.to_path_buf(), action, source }
    }
}

fn explain_io(action: &str, source: &io::Error) -> String {
    let advice = match source.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            "; free some space, or set HF_HOME to a folder on a larger disk. What is downloaded stays, and the next \
             attempt goes on from there"
        }
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            "; check its permissions, or set HF_HOME to a folder of your own"
        }
        _ => "",
    };
    format!("cannot be {action} ({source}){advice}")
}
