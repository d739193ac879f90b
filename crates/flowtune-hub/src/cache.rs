//! The cache's layout, that of `huggingface_hub`: `blobs/<etag>` holds content, `snapshots/<commit>/<name>` links to it,
//! `refs/<revision>` holds a commit, `trees/<commit>.json` lists its files; `.locks/` is beside the repositories.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Component, Path, PathBuf};

use crate::error::{Error, Result};

/// The part of the cache that belongs to one model.
pub(crate) struct RepoCache {
    folder: PathBuf,
    locks: PathBuf,
}

impl RepoCache {
    pub(crate) fn new(cache: &Path, id: &str) -> Self {
        let name = format!("models--{}", id.replace('/', "--"));
        Self { folder: cache.join(&name), locks: cache.join(".locks").join(name) }
    }

    pub(crate) fn snapshot(&self, commit: &str) -> PathBuf {
        self.folder.join("snapshots").join(commit)
    }

    pub(crate) fn tree(&self, commit: &str) -> PathBuf {
        self.folder.join("trees").join(format!("{commit}.json"))
    }

    pub(crate) fn blob(&self, etag: &str) -> PathBuf {
        self.folder.join("blobs").join(etag)
    }

    pub(crate) fn lock(&self, etag: &str) -> PathBuf {
        self.locks.join(format!("{etag}.lock"))
    }

    /// What `revision` was when the hub was last asked; a commit is itself.
    pub(crate) fn commit(&self, revision: &str) -> Option<String> {
        if is_commit(revision) {
            return Some(revision.to_owned());
        }
        let text = fs::read_to_string(self.folder.join("refs").join(revision)).ok()?;
        Some(text.trim().to_owned()).filter(|commit| is_commit(commit))
    }

    /// Keeps what `revision` is now.
    pub(crate) fn remember(&self, revision: &str, commit: &str) -> Result<()> {
        match is_commit(revision) || self.commit(revision).as_deref() == Some(commit) {
            true => Ok(()),
            false => write_file(&self.folder.join("refs").join(revision), commit.as_bytes()),
        }
    }

    /// Whether a file of a commit is here, whole.
    pub(crate) fn has(&self, commit: &str, name: &str) -> bool {
        self.snapshot(commit).join(name).is_file()
    }

    /// Makes a blob appear as a file of a commit; both names are safe ones.
    pub(crate) fn link(&self, etag: &str, commit: &str, name: &str) -> Result<()> {
        let (blob, file) = (self.blob(etag), self.snapshot(commit).join(name));
        if file.is_file() {
            return Ok(());
        }
        make_parent(&file)?;
        // Left by someone who cleared the blobs.
        if file.is_symlink() {
            fs::remove_file(&file).map_err(Error::io(&file, "removed"))?;
        }
        // `snapshots/<commit>/a/b` is three folders below the one that holds `blobs`.
        let up = "../".repeat(2 + name.split('/').count() - 1);
        match symlink(&Path::new(&up).join("blobs").join(etag), &file) {
            Ok(()) => Ok(()),
            // Another process was faster.
            Err(_) if file.is_file() => Ok(()),
            Err(_) => copy(&blob, &file),
        }
    }
}

#[cfg(unix)]
fn symlink(target: &Path, link: &Path) -> std::io::Result<()> {
    std::os::unix::fs::symlink(target, link)
}

#[cfg(windows)]
fn symlink(target: &Path, link: &Path) -> std::io::Result<()> {
    std::os::windows::fs::symlink_file(target, link)
}

/// For systems and disks without symbolic links: a second name, or else a second copy.
fn copy(blob: &Path, file: &Path) -> Result<()> {
    if fs::hard_link(blob, file).is_ok() {
        return Ok(());
    }
    replace(file, |out| std::io::copy(&mut File::open(blob)?, out).map(drop))
}

/// Writes beside `path`, syncs and renames.
pub(crate) fn write_file(path: &Path, bytes: &[u8]) -> Result<()> {
    make_parent(path)?;
    replace(path, |out| out.write_all(bytes))
}

fn replace(path: &Path, write: impl FnOnce(&mut File) -> std::io::Result<()>) -> Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    let mut builder = tempfile::Builder::new();
    builder.prefix(".flowtune-").suffix(".tmp");
    // Temporary files are private by default; a cache may be shared.
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    let attempt = || -> std::io::Result<()> {
        let mut file = builder.tempfile_in(folder)?;
        write(file.as_file_mut())?;
        file.as_file().sync_all()?;
        file.persist(path).map(drop).map_err(|e| e.error)
    };
    attempt().map_err(Error::io(path, "written"))
}

pub(crate) fn make_parent(path: &Path) -> Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(folder).map_err(Error::io(folder, "made"))
}

/// Whether a name that a hub or a user gave stays in the folder that it is put in, on every system.
pub(crate) fn is_safe_name(name: &str) -> bool {
    let plain = |part: &str| !part.is_empty() && !part.contains(['\\', ':', '\0']);
    name.split('/').all(plain) && Path::new(name).components().all(|c| matches!(c, Component::Normal(_)))
        // `components` passes over a `.` in the middle.
        && name.split('/').all(|part| part != ".")
}

/// Whether this is a full Git commit.
pub(crate) fn is_commit(text: &str) -> bool {
    matches!(text.len(), 40 | 64) && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_leave_their_folder_are_not_safe() {
        for name in ["a", "a/b.json", "refs/pr/1", ".gitattributes", "a..b"] {
            assert!(is_safe_name(name), "{name}");
        }
        for name in ["", "/a", "../a", "a/../b", "a/./b", "./a", "a//b", "a/", "c:/x", "a\\b", "a\0", "..", "."] {
            assert!(!is_safe_name(name), "{name:?}");
        }
    }

    #[test]
    fn a_link_leads_to_its_blob_from_any_depth_and_is_made_again_when_it_leads_nowhere() {
        let folder = tempfile::tempdir().unwrap();
        let cache = RepoCache::new(folder.path(), "a/b");
        let commit = "0".repeat(40);
        write_file(&cache.blob("e"), b"content").unwrap();
        for name in ["x.json", "y/x.json", "y/z/x.json"] {
            cache.link("e", &commit, name).unwrap();
            assert_eq!(fs::read(cache.snapshot(&commit).join(name)).unwrap(), b"content");
        }
        fs::remove_file(cache.blob("e")).unwrap();
        assert!(!cache.has(&commit, "x.json"));
        write_file(&cache.blob("f"), b"other").unwrap();
        cache.link("f", &commit, "x.json").unwrap();
        assert_eq!(fs::read(cache.snapshot(&commit).join("x.json")).unwrap(), b"other");
    }

    #[test]
    fn without_symbolic_links_a_file_has_a_second_name() {
        let folder = tempfile::tempdir().unwrap();
        let (blob, file) = (folder.path().join("blob"), folder.path().join("file"));
        fs::write(&blob, b"content").unwrap();
        copy(&blob, &file).unwrap();
        assert_eq!(fs::read(&file).unwrap(), b"content");
    }

    #[test]
    fn a_ref_that_is_no_commit_is_none() {
        let folder = tempfile::tempdir().unwrap();
        let cache = RepoCache::new(folder.path(), "a/b");
        let commit = "1".repeat(40);
        cache.remember("refs/pr/1", &commit).unwrap();
        assert_eq!(cache.commit("refs/pr/1"), Some(commit.clone()));
        assert_eq!(cache.commit(&commit), Some(commit));
        assert_eq!(cache.commit("main"), None);
        write_file(&folder.path().join("models--a--b/refs/main"), b"../../x").unwrap();
        assert_eq!(cache.commit("main"), None);
    }
}
