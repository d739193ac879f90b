//! A hub's model fetched ahead.

use std::path::PathBuf;

use flowtune_hub::{Hub, HubModel, Part, Reference};
use serde::{Deserialize, Serialize};

use crate::control::Control;
use crate::error::{Error, Result};
use crate::model_source::working_dir;

/// What `download` is asked for.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DownloadOptions {
    /// `owner/name` of a pipeline in diffusers layout, or `owner/name/file.safetensors` of a transformer.
    pub model: PathBuf,
    /// Branch, tag or commit.
    pub revision: Option<String>,
}

/// What `download` brought.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct DownloadSummary {
    /// The model's folder in the cache, or the file.
    pub path: PathBuf,
    /// The commit.
    pub revision: String,
    /// Files that are needed.
    pub files: usize,
    /// Bytes that came from the hub, the others being here already.
    pub downloaded_bytes: u64,
}

/// Brings a model into the cache.
///
/// # Errors
/// `INVALID_ARGUMENT` for what is no hub's; `HUB_UNAVAILABLE`, `HUB_GATED`, `HUB_NOT_FOUND`, `HUB_CORRUPT`, `IO`,
/// `CANCELLED`.
pub fn download(options: DownloadOptions, control: &Control) -> Result<DownloadSummary> {
    let DownloadOptions { model: given, revision } = options;
    let base = working_dir()?;
    let at = |model: HubModel| match (&model.revision, &revision) {
        (Some(_), Some(_)) => Err(Error::InvalidArgument(format!("{} names a revision already", given.display()))),
        (Some(_), None) => Ok(model),
        (None, _) => Ok(model.at(revision.clone())?),
    };
    let (path, snapshot) = match (Reference::to_file(&given, &base)?, Reference::to_model(&given, &base)?) {
        (Reference::Hub(mut file), _) => {
            file.model = at(file.model)?;
            Hub::from_env()?.file(&file, control)?
        }
        (_, Reference::Hub(model)) => {
            let snapshot = Hub::from_env()?.pipeline(&at(model)?, &Part::ALL, control)?;
            (snapshot.folder.clone(), snapshot)
        }
        (_, Reference::Path(path)) => {
            let problem = if path.exists() { "is on disk" } else { "is neither on disk nor a hub's id" };
            return Err(Error::InvalidArgument(format!(
                "{} {problem}; download takes OWNER/NAME of a model on the hub, or OWNER/NAME/FILE.safetensors of a \
                 transformer",
                path.display()
            )));
        }
    };
    let flowtune_hub::Snapshot { commit, files, downloaded, .. } = snapshot;
    Ok(DownloadSummary { path, revision: commit, files, downloaded_bytes: downloaded })
}
