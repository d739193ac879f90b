//! Files and folders that are either whole or absent, even when the power goes.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

use crate::error::{Error, Result};

/// Writes `bytes` beside `path`, fsyncs and renames: `path` holds all of them or what it held before.
///
/// # Errors
/// `IO`; nothing half-written is left.
pub fn write_file(path: &Path, bytes: &[u8]) -> Result<()> {
    Ok(flowtune_models::replace_file(path, |out| out.write_all(bytes))?)
}

/// Makes the names inside `dir` durable. Windows has no such call and needs none.
///
/// # Errors
/// `IO`.
pub fn sync_dir(dir: &Path) -> Result<()> {
    if cfg!(unix) {
        File::open(dir).and_then(|d| d.sync_all()).map_err(Error::io(dir, "synced"))?;
    }
    Ok(())
}

/// Makes every file under `dir`, and `dir` itself, durable.
///
/// # Errors
/// `IO`.
pub fn sync_tree(dir: &Path) -> Result<()> {
    for entry in fs::read_dir(dir).map_err(Error::io(dir, "read"))? {
        let path = entry.map_err(Error::io(dir, "read"))?.path();
        if path.is_dir() {
            sync_tree(&path)?;
        } else {
            // Windows flushes only handles that may write.
            let file = File::options().read(true).write(true).open(&path);
            file.and_then(|f| f.sync_all()).map_err(Error::io(&path, "synced"))?;
        }
    }
    sync_dir(dir)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replaces_whole_and_leaves_nothing_beside() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.txt");
        write_file(&path, b"one").unwrap();
        write_file(&path, b"two").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"two");
        let error = write_file(&dir.path().join("absent/a.txt"), b"x").unwrap_err();
        assert_eq!(error.code(), "IO");
        assert!(error.to_string().contains("absent/a.txt"), "{error}");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
