//! What was perhaps meant by a name that a hub does not know. Asked once, and silent when the hub does not say.

use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::client::Client;
use crate::reference::HubModel;

/// Names that are listed at most.
const MAX_LISTED: usize = 8;
/// Similarity above which a name was probably meant.
const ALIKE: f64 = 0.7;

#[derive(Deserialize)]
struct Refs {
    branches: Vec<Named>,
    #[serde(default)]
    tags: Vec<Named>,
}

#[derive(Deserialize)]
struct Named {
    name: String,
}

#[derive(Deserialize)]
struct Model {
    id: String,
}

/// A sentence to append: the revisions of a model that is there, or the nearest model of the same owner.
pub(crate) fn suggestion(client: &Client, model: &HubModel) -> String {
    let (owner, name) = model.id.split_once('/').unwrap_or_default();
    if let Some(Refs { branches, tags }) = ask(client, &client.url(&["api", "models", owner, name, "refs"]), model) {
        let names: Vec<String> = branches.into_iter().chain(tags).map(|named| named.name).take(MAX_LISTED).collect();
        return format!("; it has {}", names.join(", "));
    }
    let url = format!("{}?author={owner}&limit=200", client.url(&["api", "models"]));
    let models: Vec<Model> = ask(client, &url, model).unwrap_or_default();
    match nearest(&model.id, models.iter().map(|model| model.id.as_str())) {
        Some(id) => format!("; did you mean {id}?"),
        None => String::new(),
    }
}

/// The name most like `wanted`, if one is like it at all.
pub(crate) fn nearest<'a>(wanted: &str, names: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let wanted = wanted.to_lowercase();
    names
        .map(|name| (strsim::normalized_damerau_levenshtein(&wanted, &name.to_lowercase()), name))
        .filter(|(alike, _)| *alike >= ALIKE)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, name)| name)
}

fn ask<T: DeserializeOwned>(client: &Client, url: &str, model: &HubModel) -> Option<T> {
    let body = client.get(url, 0, model).ok()?.into_body();
    serde_json::from_slice(&body.into_with_config().read_to_vec().ok()?).ok()
}
