//! Captioned images, their cached latents and text embeddings, and the loader of training batches.
//!
//! [`Dataset::open`] lists images and captions, [`prepare`] encodes what the [`Cache`] lacks, [`Loader`] gives batches
//! that are a function of seed and step alone.

pub mod atomic;
mod cache;
mod dataset;
mod encoder;
mod error;
mod image;
mod loader;
mod models;
mod order;
mod prepare;

pub use cache::{Cache, LatentKey, TextKey};
pub use dataset::{Dataset, DatasetOptions, Item, OnBadFile, Skipped};
pub use encoder::{CaptionEncoder, ImageEncoder};
pub use error::{Error, Result};
pub use image::{Size, bucket_for, decode_image, load_image, save_png};
pub use loader::{Batch, Loader};
pub use models::{TextCaptionEncoder, VaeEncoder};
pub use prepare::{Captions, Notice, Prepared, Sample, TargetSize, prepare};
