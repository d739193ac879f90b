//! One file from the hub into the cache: resumed where an earlier attempt ended, compared with its hash, under its final
//! name when it is whole.

use std::fs::{self, File, TryLockError};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

use sha2::{Digest, Sha256};
use ureq::http::StatusCode;

use crate::cache::{RepoCache, make_parent};
use crate::client::{Client, Failure, Patience, Response, pause, text};
use crate::error::{Error, Result};
use crate::observer::Observer;
use crate::reference::HubModel;

const BUFFER: usize = 1 << 20;
/// How often a file that another process downloads is looked at.
const LOOK_AGAIN: Duration = Duration::from_millis(200);

/// A file as the hub announces it.
pub(crate) struct Remote {
    /// Path in the repository.
    pub(crate) name: String,
    /// Where it is.
    pub(crate) url: String,
    /// Names the content: the SHA-256 of a large file, Git's hash of a small one.
    pub(crate) etag: String,
    /// Bytes.
    pub(crate) size: u64,
}

impl Remote {
    /// Asks what a file is.
    pub(crate) fn ask(client: &Client, model: &HubModel, commit: &str, name: &str) -> Result<Self, Failure> {
        let url = client.file_url(&model.id, commit, name);
        let response = client.head(&url, model)?;
        let headers = response.headers();
        let unclear = |what: &str| {
            Error::Unavailable(format!("{url}: the answer has no {what}: check HF_ENDPOINT, and proxies on the way"))
        };
        let etag = text(headers, "x-linked-etag").or_else(|| text(headers, "etag")).and_then(plain_etag);
        let own_size = || text(headers, "content-length").filter(|_| !response.status().is_redirection());
        let size = text(headers, "x-linked-size").or_else(own_size).and_then(|size| size.parse().ok());
        Ok(Self {
            name: name.to_owned(),
            etag: etag.ok_or_else(|| unclear("ETag"))?,
            size: size.ok_or_else(|| unclear("size"))?,
            url,
        })
    }

    /// The hash that the content must have, where the hub says it.
    fn sha256(&self) -> Option<&str> {
        let is_hash = self.etag.len() == 64 && self.etag.bytes().all(|b| b.is_ascii_hexdigit());
        is_hash.then_some(self.etag.as_str())
    }
}

/// `W/"abc"` → `abc`, if that can be a file's name.
fn plain_etag(etag: &str) -> Option<String> {
    let plain = etag.trim_start_matches("W/").trim_matches('"');
    let is_name =
        !plain.is_empty() && plain.len() <= 128 && plain.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    is_name.then(|| plain.to_owned())
}

/// A download of one file.
pub(crate) struct Download<'a> {
    pub(crate) client: &'a Client,
    pub(crate) cache: &'a RepoCache,
    pub(crate) model: &'a HubModel,
    pub(crate) observer: &'a dyn Observer,
    /// Hears how many bytes of the file are here.
    pub(crate) told: &'a dyn Fn(u64),
}

impl Download<'_> {
    /// Makes the file's content appear in the cache; gives the bytes that came from the hub.
    ///
    /// # Errors
    /// `HUB_UNAVAILABLE`, `HUB_GATED`, `HUB_NOT_FOUND`; `HUB_CORRUPT` when the content is not what was announced, nothing
    /// of which then stays; `IO`; `CANCELLED`. After all others what has come stays for the next attempt.
    pub(crate) fn run(&self, remote: &Remote) -> Result<u64> {
        let blob = self.cache.blob(&remote.etag);
        let partial = blob.with_file_name(format!("{}.incomplete", remote.etag));
        make_parent(&blob)?;
        let _lock = self.lock(remote, &blob, &partial)?;
        if is_whole(&blob, remote) {
            (self.told)(remote.size);
            return Ok(0);
        }
        let mut file = Partial::open(&partial, remote, self.observer)?;
        let came = self.receive(remote, &mut file)?;
        if let Err(error) = file.check(remote) {
            drop(file);
            fs::remove_file(&partial).map_err(Error::io(&partial, "removed"))?;
            return Err(error);
        }
        file.file.sync_all().map_err(Error::io(&partial, "written"))?;
        fs::rename(&partial, &blob).map_err(Error::io(&blob, "written"))?;
        sync_folder(&blob)?;
        Ok(came)
    }

    /// One process at a time downloads a file; it is free again when that process ends, however it ends.
    fn lock(&self, remote: &Remote, blob: &Path, partial: &Path) -> Result<File> {
        let path = self.cache.lock(&remote.etag);
        make_parent(&path)?;
        let options = File::options().create(true).truncate(false).write(true).open(&path);
        let file = options.map_err(Error::io(&path, "opened"))?;
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(file),
                Err(TryLockError::WouldBlock) if is_whole(blob, remote) => return Ok(file),
                Err(TryLockError::WouldBlock) => {
                    (self.told)(fs::metadata(partial).map_or(0, |m| m.len()).min(remote.size));
                    pause(LOOK_AGAIN, self.observer)?;
                }
                Err(TryLockError::Error(error)) => return Err(Error::io(&path, "locked")(error)),
            }
        }
    }

    fn receive(&self, remote: &Remote, file: &mut Partial) -> Result<u64> {
        let mut patience = Patience::new(&self.client.settings);
        let mut came = 0;
        while file.len < remote.size {
            let start = file.len;
            let outcome = self.attempt(remote, file, &mut came);
            if file.len > start {
                patience.renew();
            }
            if let Err(failure) = outcome {
                patience.after(failure, self.observer)?;
            }
        }
        (self.told)(file.len);
        Ok(came)
    }

    /// Receives until the end, or until the connection is lost.
    fn attempt(&self, remote: &Remote, file: &mut Partial, came: &mut u64) -> Result<(), Failure> {
        let response = self.client.get(&remote.url, file.len, self.model)?;
        if file.len > 0 && start_of(&response) != Some(file.len) {
            // Not the part that was asked for: all of it, or none.
            file.restart()?;
            if response.status() != StatusCode::OK {
                return Err(Failure::transient(format!("{} answers another part of the file", remote.url)));
            }
        }
        let mut body = response.into_body().into_reader();
        let mut buffer = vec![0; BUFFER];
        while file.len < remote.size {
            if self.observer.is_cancelled() {
                return Err(Error::Cancelled.into());
            }
            (self.told)(file.len);
            let room = BUFFER.min(usize::try_from(remote.size - file.len).unwrap_or(BUFFER));
            match body.read(&mut buffer[..room]) {
                Ok(0) => return Err(Failure::transient("the connection ended early")),
                Ok(count) => {
                    file.append(&buffer[..count])?;
                    *came += count as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(Failure::transient(error)),
            }
        }
        Ok(())
    }
}

fn is_whole(blob: &Path, remote: &Remote) -> bool {
    fs::metadata(blob).is_ok_and(|m| m.len() == remote.size)
}

/// The first byte of a partial answer.
fn start_of(response: &Response) -> Option<u64> {
    if response.status() != StatusCode::PARTIAL_CONTENT {
        return None;
    }
    text(response.headers(), "content-range")?.strip_prefix("bytes ")?.split('-').next()?.parse().ok()
}

/// What has come of a file, and its hash so far.
struct Partial {
    path: PathBuf,
    file: File,
    len: u64,
    hash: Option<Sha256>,
}

impl Partial {
    /// Goes on with what an earlier attempt left.
    fn open(path: &Path, remote: &Remote, observer: &dyn Observer) -> Result<Self> {
        let options = File::options().create(true).append(true).read(true).open(path);
        let mut file = options.map_err(Error::io(path, "opened"))?;
        let mut hash = remote.sha256().map(|_| Sha256::new());
        let mut len = 0;
        let mut buffer = vec![0; BUFFER];
        loop {
            if observer.is_cancelled() {
                return Err(Error::Cancelled);
            }
            let count = file.read(&mut buffer).map_err(Error::io(path, "read"))?;
            if count == 0 {
                break;
            }
            len += count as u64;
            if let Some(hash) = &mut hash {
                hash.update(&buffer[..count]);
            }
        }
        let mut partial = Self { path: path.to_path_buf(), file, len, hash };
        if partial.len > remote.size {
            partial.restart()?;
        }
        Ok(partial)
    }

    fn append(&mut self, bytes: &[u8]) -> Result<()> {
        let written = io::Write::write_all(&mut self.file, bytes);
        written.map_err(Error::io(&self.path, "written"))?;
        self.len += bytes.len() as u64;
        if let Some(hash) = &mut self.hash {
            hash.update(bytes);
        }
        Ok(())
    }

    fn restart(&mut self) -> Result<()> {
        self.file.set_len(0).map_err(Error::io(&self.path, "emptied"))?;
        self.len = 0;
        self.hash = self.hash.take().map(|_| Sha256::new());
        Ok(())
    }

    fn check(&mut self, remote: &Remote) -> Result<()> {
        let (Some(expected), Some(hash)) = (remote.sha256(), self.hash.take()) else { return Ok(()) };
        let got: String = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
        match got.eq_ignore_ascii_case(expected) {
            true => Ok(()),
            false => Err(Error::Corrupt(format!(
                "{}: what came has the SHA-256 {got}, but the hub announced {expected}; it is deleted: try again, and if it \
                 stays so, the hub, a mirror or a proxy has a damaged copy",
                remote.url
            ))),
        }
    }
}

/// Makes a file's new name durable. Windows has no such call and needs none.
fn sync_folder(file: &Path) -> Result<()> {
    let folder = file.parent().unwrap_or(Path::new("."));
    match cfg!(unix) {
        true => File::open(folder).and_then(|f| f.sync_all()).map_err(Error::io(folder, "synced")),
        false => Ok(()),
    }
}
