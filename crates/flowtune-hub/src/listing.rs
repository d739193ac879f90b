//! The files of a commit. What they are never changes, so the answer is kept, as `huggingface_hub` keeps it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::cache::{RepoCache, is_commit, write_file};
use crate::client::{Client, Failure};
use crate::error::{Error, Result};
use crate::observer::Observer;
use crate::reference::HubModel;
use crate::suggest::suggestion;

/// Largest answer that is read.
const MAX_BYTES: u64 = 64 << 20;
const FORMAT: u32 = 1;

/// A commit and its files.
#[derive(Debug)]
pub(crate) struct Listing {
    pub(crate) commit: String,
    pub(crate) names: BTreeSet<String>,
}

#[derive(Deserialize)]
struct Answer {
    sha: String,
    siblings: Vec<Sibling>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Sibling {
    rfilename: String,
    size: Option<u64>,
    blob_id: Option<String>,
    lfs: Option<Lfs>,
}

#[derive(Deserialize)]
struct Lfs {
    sha256: String,
    size: u64,
}

/// `trees/<commit>.json`.
#[derive(Serialize, Deserialize)]
struct Tree {
    format_version: u32,
    files: BTreeMap<String, TreeFile>,
}

#[derive(Serialize, Deserialize)]
struct TreeFile {
    size: u64,
    blob_id: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    lfs_sha256: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    lfs_size: Option<u64>,
}

/// Asks the hub, and keeps its answer.
///
/// # Errors
/// `HUB_UNAVAILABLE`, `HUB_GATED`, `HUB_NOT_FOUND` with what was perhaps meant, `IO`, `CANCELLED`.
pub(crate) fn ask(client: &Client, cache: &RepoCache, model: &HubModel, observer: &dyn Observer) -> Result<Listing> {
    let (owner, name) = model.id.split_once('/').unwrap_or_default();
    let url = client.url(&["api", "models", owner, name, "revision", model.revision()]) + "?blobs=true";
    let text = client.retry(observer, || {
        let body = client.get(&url, 0, model)?.into_body();
        body.into_with_config().limit(MAX_BYTES).read_to_vec().map_err(Failure::transient)
    });
    let text = text.map_err(|error| match error {
        Error::NotFound(message) => Error::NotFound(message + &suggestion(client, model)),
        other => other,
    })?;
    let unclear = |problem: &str| {
        let endpoint = &client.settings.endpoint;
        Error::Unavailable(format!(
            "{endpoint} does not answer as a hub ({problem}): check HF_ENDPOINT, and proxies on the way"
        ))
    };
    let Answer { sha, siblings } = serde_json::from_slice(&text).map_err(|e| unclear(&e.to_string()))?;
    if !is_commit(&sha) {
        return Err(unclear(&format!("`{sha}` is no commit")));
    }
    let names = siblings.iter().map(|sibling| sibling.rfilename.clone()).collect();
    if let Some(files) = siblings.into_iter().map(tree_file).collect::<Option<_>>() {
        let tree = serde_json::to_vec(&Tree { format_version: FORMAT, files }).unwrap_or_default();
        write_file(&cache.tree(&sha), &tree)?;
    }
    cache.remember(model.revision(), &sha)?;
    Ok(Listing { commit: sha, names })
}

/// With sizes and hashes; a hub that does not know `blobs=true` gives none.
fn tree_file(sibling: Sibling) -> Option<(String, TreeFile)> {
    let Sibling { rfilename, size, blob_id, lfs } = sibling;
    let (lfs_sha256, lfs_size) = lfs.map(|lfs| (lfs.sha256, lfs.size)).unzip();
    Some((rfilename, TreeFile { size: size?, blob_id: blob_id?, lfs_sha256, lfs_size }))
}

/// What the hub said of a commit earlier.
pub(crate) fn kept(cache: &RepoCache, commit: &str) -> Option<Listing> {
    let tree: Tree = serde_json::from_slice(&fs::read(cache.tree(commit)).ok()?).ok()?;
    let names = tree.files.into_keys().collect();
    (tree.format_version == FORMAT).then(|| Listing { commit: commit.to_owned(), names })
}

/// What is in the cache of a commit, when nobody kept what belongs to it.
pub(crate) fn present(cache: &RepoCache, commit: &str) -> Option<Listing> {
    let folder = cache.snapshot(commit);
    let mut names = BTreeSet::new();
    collect(&folder, &folder, &mut names);
    (!names.is_empty()).then(|| Listing { commit: commit.to_owned(), names })
}

fn collect(root: &Path, folder: &Path, names: &mut BTreeSet<String>) {
    let entries: Vec<PathBuf> =
        fs::read_dir(folder).into_iter().flatten().filter_map(|e| Some(e.ok()?.path())).collect();
    for path in entries {
        if path.is_dir() {
            collect(root, &path, names);
        } else if let Ok(name) = path.strip_prefix(root) {
            names.insert(name.to_string_lossy().replace('\\', "/"));
        }
    }
}
