//! Models of the Hugging Face hub, or of one that speaks like it, as local folders: only the files that are needed, in
//! the cache that `huggingface_hub` uses too, so that neither downloads what the other has.
//!
//! Protocol, environment variables and cache layout are those of `huggingface_hub` 1.x.

mod cache;
mod client;
mod download;
mod error;
mod hub;
mod listing;
mod observer;
mod reference;
mod select;
mod settings;
mod suggest;
#[cfg(test)]
mod testing;

pub use error::{Error, Result};
pub use hub::{Hub, Snapshot};
pub use observer::Observer;
pub use reference::{HubFile, HubModel, Reference};
pub use select::Part;
pub use settings::Settings;
