//! `checkpoints/step-N`: written beside, fsynced, renamed.

use std::fs;
use std::path::{Path, PathBuf};

use flowtune_data::atomic;
use serde::{Deserialize, Serialize};

use super::RunFolder;
use crate::error::{Error, Result};

/// Lists the files of a checkpoint with their sizes; written last.
const MANIFEST: &str = "manifest.json";

/// Beginnings of the names of folders that are being filled or emptied.
const PARTIAL: &str = ".partial-";
const REMOVED: &str = ".removed-";

/// A checkpoint on disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checkpoint {
    /// Optimizer steps done.
    pub step: u64,
    /// Its folder.
    pub path: PathBuf,
}

#[derive(Serialize, Deserialize)]
struct Manifest {
    step: u64,
    files: Vec<(String, u64)>,
}

impl RunFolder {
    /// Writes the checkpoint of `step`: `fill` writes files (no folders) into the folder it is given, which becomes
    /// `checkpoints/step-N` once everything is on disk. Then drops older checkpoints beyond `keep`.
    ///
    /// # Errors
    /// What `fill` fails with, or `IO`; earlier checkpoints stay then, and nothing half-written is left.
    pub fn write_checkpoint(
        &self,
        step: u64,
        keep: usize,
        fill: impl FnOnce(&Path) -> Result<()>,
    ) -> Result<Checkpoint> {
        let dir = self.checkpoints_dir();
        fs::create_dir_all(&dir).map_err(Error::io(&dir, "made"))?;
        let partial = tempfile::Builder::new().prefix(PARTIAL).tempdir_in(&dir);
        let partial = partial.map_err(Error::io(&dir, "written"))?;
        open_to_others(partial.path())?;
        fill(partial.path())?;
        write_manifest(partial.path(), step)?;
        atomic::sync_tree(partial.path())?;
        let path = dir.join(format!("step-{step}"));
        // A run that was resumed from an older checkpoint comes past this step again.
        remove(&path)?;
        fs::rename(partial.path(), &path).map_err(Error::io(&path, "written"))?;
        drop(partial.keep());
        atomic::sync_dir(&dir)?;
        self.prune(keep)?;
        Ok(Checkpoint { step, path })
    }

    /// The whole checkpoints, oldest first. Half-written or damaged ones are passed over.
    ///
    /// # Errors
    /// `IO`.
    pub fn checkpoints(&self) -> Result<Vec<Checkpoint>> {
        list_checkpoints(&self.dir)
    }

    /// The checkpoint to resume from.
    ///
    /// # Errors
    /// `IO`.
    pub fn latest_checkpoint(&self) -> Result<Option<Checkpoint>> {
        Ok(self.checkpoints()?.pop())
    }

    fn prune(&self, keep: usize) -> Result<()> {
        let checkpoints = self.checkpoints()?;
        let surplus = checkpoints.len().saturating_sub(keep.max(1));
        checkpoints[..surplus].iter().try_for_each(|checkpoint| remove(&checkpoint.path))
    }

    fn checkpoints_dir(&self) -> PathBuf {
        self.dir.join("checkpoints")
    }
}

/// The whole checkpoints of the run folder `dir`, oldest first.
///
/// # Errors
/// `IO`.
pub fn list_checkpoints(dir: &Path) -> Result<Vec<Checkpoint>> {
    let dir = dir.join("checkpoints");
    let entries = match fs::read_dir(&dir) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(Error::io(&dir, "read"))?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let path = entry.map_err(Error::io(&dir, "read"))?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let step = name.strip_prefix("step-").and_then(|n| n.parse().ok());
        if let Some(step) = step.filter(|&step| is_whole(&path, step)) {
            found.push(Checkpoint { step, path });
        }
    }
    found.sort_by_key(|checkpoint| checkpoint.step);
    Ok(found)
}

/// Removes what a killed process left half-written or half-removed; for the process that holds the run alone.
pub(super) fn sweep(dir: &Path) -> Result<()> {
    let dir = dir.join("checkpoints");
    let entries = match fs::read_dir(&dir) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        entries => entries.map_err(Error::io(&dir, "read"))?,
    };
    for entry in entries {
        let path = entry.map_err(Error::io(&dir, "read"))?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if [PARTIAL, REMOVED].iter().any(|prefix| name.starts_with(prefix)) {
            fs::remove_dir_all(&path).map_err(Error::io(&path, "removed"))?;
        }
    }
    Ok(())
}

/// Whether every file of the manifest is there with its size.
fn is_whole(path: &Path, step: u64) -> bool {
    let manifest = fs::read(path.join(MANIFEST)).ok();
    let Some(manifest) = manifest.and_then(|bytes| serde_json::from_slice::<Manifest>(&bytes).ok()) else {
        return false;
    };
    let same_size = |(name, size): &(String, u64)| fs::metadata(path.join(name)).is_ok_and(|m| m.len() == *size);
    manifest.step == step && manifest.files.iter().all(same_size)
}

fn write_manifest(dir: &Path, step: u64) -> Result<()> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir).map_err(Error::io(dir, "read"))? {
        let entry = entry.map_err(Error::io(dir, "read"))?;
        let size = entry.metadata().map_err(Error::io(&entry.path(), "read"))?.len();
        files.push((entry.file_name().to_string_lossy().into_owned(), size));
    }
    files.sort();
    let json = serde_json::to_vec_pretty(&Manifest { step, files });
    let json = json.map_err(|e| Error::Internal(format!("manifest to JSON: {e}")))?;
    Ok(atomic::write_file(&dir.join(MANIFEST), &json)?)
}

/// Removes a checkpoint: first its name, so that a half-removed one is never taken for whole.
fn remove(path: &Path) -> Result<()> {
    if !path.exists() {
        return Ok(());
    }
    let parent = path.parent().unwrap_or(path);
    let grave = tempfile::Builder::new().prefix(REMOVED).tempdir_in(parent);
    let grave = grave.map_err(Error::io(parent, "written"))?;
    fs::rename(path, grave.path().join("checkpoint")).map_err(Error::io(path, "removed"))?;
    grave.close().map_err(Error::io(path, "removed"))
}

/// tempfile makes folders that only their owner may enter; a checkpoint is an ordinary folder.
fn open_to_others(dir: &Path) -> Result<()> {
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let parent = dir.parent().unwrap_or(dir);
        let mode = fs::metadata(parent).map_err(Error::io(parent, "read"))?.permissions().mode();
        fs::set_permissions(dir, fs::Permissions::from_mode(mode)).map_err(Error::io(dir, "written"))?;
    }
    Ok(())
}
