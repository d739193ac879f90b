//! Captioned images, their cached latents and text embeddings, and the loader of training batches.
//!
//! [`Dataset::open`] lists images and what belongs to them, [`encode_captions`] and [`encode_images`] encode what the
//! [`Cache`] lacks, [`Loader`] gives batches that are a function of seed and step alone.

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
mod size;

pub use cache::{Cache, LatentKey, MaskKey, TextKey};
pub use dataset::{Dataset, DatasetOptions, Item, OnBadFile, Skipped, Source};
pub use encoder::{CaptionEncoder, ImageEncoder};
pub use error::{Error, Result};
pub use image::{decode_image, decode_whole_image, image_size, load_image, save_png};
pub use loader::{Batch, Loader};
pub use models::{TextCaptionEncoder, VaeEncoder};
pub use prepare::{CachedLatents, Notice, OnNotice, Prepared, Sample, Texts, encode_captions, encode_images};
pub use size::{Size, Sizing, bucket_for};
