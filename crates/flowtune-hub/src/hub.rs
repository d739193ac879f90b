//! A model's files, from the cache or from the hub.

mod outline;

use std::cell::Cell;
use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::cache::{RepoCache, is_commit, is_safe_name};
use crate::client::Client;
use crate::download::{Download, Remote};
use crate::error::{Error, Result};
use crate::listing::{self, Listing};
use crate::observer::Observer;
use crate::reference::{HubFile, HubModel};
use crate::select::{self, MODEL_INDEX, Part};
use crate::settings::Settings;
use crate::suggest::nearest;

/// How often progress is told.
const TELL_EVERY: Duration = Duration::from_millis(200);

/// A hub and the cache of what it has.
pub struct Hub {
    client: Client,
}

/// Files of a model at one commit, on disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// Their folder.
    pub folder: PathBuf,
    /// The commit.
    pub commit: String,
    /// How many files were asked for.
    pub files: usize,
    /// Bytes that came from the hub for them, others being here already.
    pub downloaded: u64,
}

impl Hub {
    /// The hub that the environment names.
    ///
    /// # Errors
    /// As [`Settings::from_env`].
    pub fn from_env() -> Result<Self> {
        Ok(Self::new(Settings::from_env()?))
    }

    /// A hub.
    pub fn new(settings: Settings) -> Self {
        Self { client: Client::new(settings) }
    }

    /// The same, asking nobody.
    #[must_use]
    pub fn offline(self) -> Self {
        Self::new(Settings { offline: true, ..self.client.settings })
    }

    /// Brings these parts of a pipeline in diffusers layout here, and the configuration of the others.
    ///
    /// # Errors
    /// `HUB_UNAVAILABLE`, `HUB_GATED`, `HUB_NOT_FOUND`, `HUB_CORRUPT`, `IO`, `CANCELLED`.
    pub fn pipeline(&self, model: &HubModel, parts: &[Part], observer: &dyn Observer) -> Result<Snapshot> {
        let mut version = self.version(model, observer)?;
        version.describe(parts)?;
        for &part in parts {
            for name in version.weights(part)? {
                let stage = format!("downloading {name}");
                version.fetch(vec![name], &stage)?;
            }
        }
        Ok(version.snapshot())
    }

    /// Brings one file here; gives its path too.
    ///
    /// # Errors
    /// As [`Hub::pipeline`].
    pub fn file(&self, file: &HubFile, observer: &dyn Observer) -> Result<(PathBuf, Snapshot)> {
        let HubFile { model, name } = file;
        let mut version = self.version(model, observer)?;
        version.check_has(file)?;
        version.fetch(vec![name.clone()], &format!("downloading {name}"))?;
        let snapshot = version.snapshot();
        Ok((snapshot.folder.join(name), snapshot))
    }

    /// Which commit is meant, and what its files are.
    fn version<'a>(&'a self, model: &'a HubModel, observer: &'a dyn Observer) -> Result<Version<'a>> {
        let (id, cache) = (&model.id, RepoCache::new(&self.client.settings.cache, &model.id));
        let commit = cache.commit(model.revision());
        let kept = commit.as_ref().and_then(|commit| listing::kept(&cache, commit));
        let is_certain = kept.is_some() && is_commit(model.revision());
        let here = kept.or_else(|| listing::present(&cache, &commit?));
        let (listing, unreachable) = match here {
            // A commit stays what it is.
            Some(here) if is_certain || self.client.settings.offline => (here, None),
            None if self.client.settings.offline => {
                let cache = self.client.settings.cache.display();
                return Err(Error::Unavailable(format!(
                    "there is no folder `{id}` here, and no model of that name at revision {} in the cache {cache}: \
                     `flowtune download {id}` fetches one, with HF_HUB_OFFLINE unset",
                    model.revision()
                )));
            }
            here => match (listing::ask(&self.client, &cache, model, observer), here) {
                (Ok(listing), _) => (listing, None),
                (Err(Error::Unavailable(why)), Some(here)) => {
                    observer.warning(&format!("{why}. Using {id} as it is in the cache, at commit {}", here.commit));
                    (here, Some(why))
                }
                (Err(Error::Unavailable(why)), None) => {
                    return Err(Error::Unavailable(format!("there is no folder `{id}` here, and {why}")));
                }
                (Err(error), _) => return Err(error),
            },
        };
        Ok(Version { client: &self.client, cache, model, observer, listing, unreachable, files: 0, downloaded: 0 })
    }
}

/// A model at a commit.
struct Version<'a> {
    client: &'a Client,
    cache: RepoCache,
    model: &'a HubModel,
    observer: &'a dyn Observer,
    listing: Listing,
    /// Why the hub cannot be asked, though it should have been.
    unreachable: Option<String>,
    files: usize,
    downloaded: u64,
}

impl Version<'_> {
    /// Brings here all but the weights of these parts, and the configuration of the others.
    fn describe(&mut self, parts: &[Part]) -> Result<()> {
        let (id, Listing { names, commit, .. }) = (&self.model.id, &self.listing);
        if !names.contains(MODEL_INDEX) {
            return Err(self.lacks(MODEL_INDEX, || {
                format!(
                    "{id}@{commit} is no pipeline in diffusers layout: it has no {MODEL_INDEX}; a file of it can be the \
                     transformer of one (`model.transformer`: {id}/FILE.safetensors)"
                )
            }));
        }
        let names = select::descriptions(names, parts).into_iter().map(str::to_owned).collect();
        self.fetch(names, &format!("downloading configuration of {}", self.model.id))
    }

    /// That there is such a file.
    fn check_has(&self, file: &HubFile) -> Result<()> {
        let Listing { names, commit, .. } = &self.listing;
        if names.contains(&file.name) {
            return Ok(());
        }
        Err(self.lacks(&file.name, || {
            let (id, name) = (&self.model.id, &file.name);
            let meant = nearest(name, names.iter().map(String::as_str));
            let advice = meant.map(|name| format!("; did you mean {name}?")).unwrap_or_default();
            format!("there is no file `{}` here, and {id}@{commit} has no {name}{advice}", file.reference())
        }))
    }

    /// The files of a part's weights, once it is described.
    fn weights(&self, part: Part) -> Result<Vec<String>> {
        let read = |name: &str| {
            let path = self.path(name);
            fs::read(&path).map_err(Error::io(&path, "read"))
        };
        select::weights(&self.listing.names, part, &self.model.id, &read).map_err(|error| match error {
            Error::NotFound(message) => self.lacks(&format!("weights in {}/", part.folder()), || message),
            other => other,
        })
    }

    /// Where a file is once it is here.
    fn path(&self, name: &str) -> PathBuf {
        self.cache.snapshot(&self.listing.commit).join(name)
    }

    /// Whether the hub cannot be asked.
    fn is_alone(&self) -> bool {
        self.client.settings.offline || self.unreachable.is_some()
    }

    fn snapshot(&self) -> Snapshot {
        let Listing { commit, .. } = &self.listing;
        let folder = self.cache.snapshot(commit);
        Snapshot { folder, commit: commit.clone(), files: self.files, downloaded: self.downloaded }
    }

    /// That the hub has no `what`; where the hub was not asked, that the cache has none.
    fn lacks(&self, what: &str, of_hub: impl FnOnce() -> String) -> Error {
        let (id, settings) = (&self.model.id, &self.client.settings);
        let cached =
            || format!("{id}@{}: {what} is not in the cache {}", self.listing.commit, settings.cache.display());
        match (&self.unreachable, settings.offline) {
            (Some(why), _) => Error::Unavailable(format!("{}, and {why}", cached())),
            (None, true) => Error::Unavailable(format!(
                "{}: `flowtune download {id}` fetches it, with HF_HUB_OFFLINE unset",
                cached()
            )),
            (None, false) => Error::NotFound(of_hub()),
        }
    }

    /// Brings files here that are not; `stage` says what they are.
    fn fetch(&mut self, names: Vec<String>, stage: &str) -> Result<()> {
        let commit = self.listing.commit.clone();
        if let Some(name) = names.iter().find(|name| !is_safe_name(name)) {
            let id = &self.model.id;
            return Err(Error::Corrupt(format!("{id}@{commit} lists {name:?}, which would leave its folder")));
        }
        self.files += names.len();
        let missing: Vec<String> = names.into_iter().filter(|name| !self.cache.has(&commit, name)).collect();
        if let Some(first) = missing.first().filter(|_| self.is_alone()) {
            return Err(self.lacks(first, String::new));
        }
        let ask =
            |name: &String| self.client.retry(self.observer, || Remote::ask(self.client, self.model, &commit, name));
        let remotes = missing.iter().map(ask).collect::<Result<Vec<Remote>>>()?;
        let total = remotes.iter().map(|remote| remote.size).sum();
        let told = Told { stage, total, last: Cell::new(None), observer: self.observer };
        let mut before = 0;
        for remote in &remotes {
            let told = |done: u64| told.tell(before + done);
            let Self { client, ref cache, model, observer, .. } = *self;
            self.downloaded += Download { client, cache, model, observer, told: &told }.run(remote)?;
            self.cache.link(&remote.etag, &commit, &remote.name)?;
            before += remote.size;
        }
        Ok(())
    }
}

/// Tells progress, now and then and at the end.
struct Told<'a> {
    stage: &'a str,
    total: u64,
    last: Cell<Option<Instant>>,
    observer: &'a dyn Observer,
}

impl Told<'_> {
    fn tell(&self, done: u64) {
        let is_due = self.last.get().is_none_or(|last| last.elapsed() >= TELL_EVERY);
        if is_due || done == self.total {
            self.last.set(Some(Instant::now()));
            self.observer.progress(self.stage, done, self.total);
        }
    }
}

#[cfg(test)]
mod tests;
