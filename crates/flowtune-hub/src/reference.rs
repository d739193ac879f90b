//! What a user writes to name a model: a path, or a hub's id.

use std::path::{Path, PathBuf};

use crate::cache::is_safe_name;
use crate::error::{Error, Result};

/// The revision that is meant when none is named.
const DEFAULT_REVISION: &str = "main";

/// Longest owner or name of a hub.
const MAX_NAME: usize = 96;

/// A model on a hub.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HubModel {
    /// `owner/name`.
    pub id: String,
    /// Branch, tag or commit, where one is named.
    pub revision: Option<String>,
}

/// A file of a model on a hub.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HubFile {
    /// The model.
    pub model: HubModel,
    /// Path in its repository, with `/`.
    pub name: String,
}

/// Where a model or a file is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reference<T> {
    /// On disk, absolute.
    Path(PathBuf),
    /// On a hub.
    Hub(T),
}

impl Reference<HubModel> {
    /// `owner/name` or `owner/name@revision`, unless there is something of that name on disk; else a path from `base`.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` for a revision that cannot be one.
    pub fn to_model(given: &Path, base: &Path) -> Result<Self> {
        Self::new(given, base, HubModel::parse)
    }

    /// The same of what [`Reference::to_model`] made absolute or left: the disk is not asked again.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` for a revision that cannot be one.
    pub fn to_known_model(given: &Path) -> Result<Self> {
        Self::known(given, HubModel::parse)
    }
}

impl Reference<HubFile> {
    /// `owner/name/file.safetensors` (or `.gguf`, in a folder too, with `@revision` behind it), unless there is something of
    /// that name on disk; else a path from `base`.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` for a revision that cannot be one.
    pub fn to_file(given: &Path, base: &Path) -> Result<Self> {
        Self::new(given, base, HubFile::parse)
    }

    /// The same of what [`Reference::to_file`] made absolute or left: the disk is not asked again.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` for a revision that cannot be one.
    pub fn to_known_file(given: &Path) -> Result<Self> {
        Self::known(given, HubFile::parse)
    }
}

impl<T> Reference<T> {
    fn new(given: &Path, base: &Path, parse: fn(&str) -> Result<Option<T>>) -> Result<Self> {
        let path = base.join(given);
        if path.exists() {
            return Ok(Self::Path(path));
        }
        Ok(match Self::known(given, parse)? {
            Self::Path(_) => Self::Path(path),
            hub => hub,
        })
    }

    fn known(given: &Path, parse: fn(&str) -> Result<Option<T>>) -> Result<Self> {
        let parsed = given.to_str().map(parse).transpose()?.flatten();
        Ok(parsed.map_or_else(|| Self::Path(given.to_path_buf()), Self::Hub))
    }
}

impl HubModel {
    fn parse(text: &str) -> Result<Option<Self>> {
        let (id, revision) = split_revision(text);
        if !is_id(id) {
            return Ok(None);
        }
        let model = Self { id: id.to_owned(), revision: None };
        model.at(revision.map(str::to_owned)).map(Some)
    }

    /// The same at this revision, if it is one.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` for a revision that cannot be one.
    pub fn at(self, revision: Option<String>) -> Result<Self> {
        match revision {
            Some(revision) if !is_safe_name(&revision) => Err(Error::InvalidArgument(format!(
                "`{revision}` is no revision of {}: name a branch, a tag or a commit",
                self.id
            ))),
            revision => Ok(Self { revision, ..self }),
        }
    }

    /// The revision that is named, or `main`.
    pub fn revision(&self) -> &str {
        self.revision.as_deref().unwrap_or(DEFAULT_REVISION)
    }
}

impl HubFile {
    fn parse(text: &str) -> Result<Option<Self>> {
        let (path, revision) = split_revision(text);
        let is_weights = [".safetensors", ".gguf"].iter().any(|end| path.ends_with(end));
        let mut slashes = path.match_indices('/').map(|(i, _)| i);
        let (_, Some(end)) = (slashes.next(), slashes.next()) else { return Ok(None) };
        let (id, name) = (&path[..end], &path[end + 1..]);
        if !is_weights || !is_id(id) || !is_safe_name(name) {
            return Ok(None);
        }
        let model = HubModel { id: id.to_owned(), revision: None }.at(revision.map(str::to_owned))?;
        Ok(Some(Self { model, name: name.to_owned() }))
    }

    /// What [`Reference::to_file`] reads back.
    pub fn reference(&self) -> String {
        let HubModel { id, revision } = &self.model;
        let revision = revision.as_ref().map(|revision| format!("@{revision}")).unwrap_or_default();
        format!("{id}/{}{revision}", self.name)
    }
}

fn split_revision(text: &str) -> (&str, Option<&str>) {
    text.split_once('@').map_or((text, None), |(id, revision)| (id, Some(revision)))
}

/// `owner/name` as a hub allows it.
fn is_id(text: &str) -> bool {
    let Some((owner, name)) = text.split_once('/') else { return false };
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let part = |part: &str| {
        (1..=MAX_NAME).contains(&part.len())
            && part.chars().all(allowed)
            && !part.starts_with(['-', '.'])
            && !part.ends_with(['-', '.'])
    };
    part(owner) && part(name) && !text.contains("--") && !text.contains("..") && !name.ends_with(".git")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn model(text: &str) -> Reference<HubModel> {
        Reference::to_model(Path::new(text), Path::new("/nowhere")).unwrap()
    }

    #[test]
    fn an_id_is_one_unless_something_of_that_name_is_on_disk() {
        let id = "black-forest-labs/FLUX.2-klein-base-4B";
        assert_eq!(model(id), Reference::Hub(HubModel { id: id.to_owned(), revision: None }));
        let pinned = model(&format!("{id}@refs/pr/1"));
        assert_eq!(pinned, Reference::Hub(HubModel { id: id.to_owned(), revision: Some("refs/pr/1".to_owned()) }));
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(folder.path().join(id)).unwrap();
        let found = Reference::to_model(Path::new(id), folder.path()).unwrap();
        assert_eq!(found, Reference::Path(folder.path().join(id)));
    }

    #[test]
    fn what_no_hub_would_take_is_a_path() {
        for text in ["model", "./a/b", "../a", "/a/b", "a/b/c", "a/b/", "a--b/c", "a/b.git", "a\\b", "a/b c", ""] {
            assert_eq!(model(text), Reference::Path(Path::new("/nowhere").join(text)), "{text}");
        }
    }

    #[test]
    fn a_file_of_a_hub_is_read_back() {
        for text in ["a/b/c.gguf", "a/b/d/e.safetensors@v1"] {
            let Reference::Hub(file) = Reference::to_file(Path::new(text), Path::new("/nowhere")).unwrap() else {
                panic!("{text}")
            };
            assert_eq!(file.reference(), text);
        }
        for text in ["a/b", "a/b/c.bin", "a/b/../c.gguf", "x.gguf"] {
            let reference = Reference::to_file(Path::new(text), Path::new("/nowhere")).unwrap();
            assert!(matches!(reference, Reference::Path(_)), "{text}");
        }
    }

    #[test]
    fn a_revision_that_leaves_its_folder_is_refused() {
        for text in ["a/b@../../x", "a/b@", "a/b@/etc"] {
            let error = Reference::to_model(Path::new(text), Path::new("/nowhere")).unwrap_err();
            assert_eq!(error.code(), "INVALID_ARGUMENT", "{text}");
        }
    }
}
