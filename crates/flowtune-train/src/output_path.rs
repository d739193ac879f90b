//! Where results go: nothing of the user's is overwritten.

use std::path::Path;

use crate::error::{Error, Result};

/// That there is nothing at `path`, and a folder to put it in.
pub(crate) fn must_be_free(path: &Path) -> Result<()> {
    if path.exists() {
        let message = format!("{} exists already; give another name, or move it away", path.display());
        return Err(Error::InvalidArgument(message));
    }
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty());
    if let Some(folder) = folder.filter(|f| !f.is_dir()) {
        let message = format!("the folder {} does not exist; make it first", folder.display());
        return Err(Error::InvalidArgument(message));
    }
    Ok(())
}
