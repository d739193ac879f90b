//! Captioned images, their cached latents and text embeddings, and the loader of training batches.

pub mod atomic;
mod error;

pub use error::{Error, Result};
