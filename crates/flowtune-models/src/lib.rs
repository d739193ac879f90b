//! FLUX.2's models as the engine runs them: VAE, text encoders, tokenizers, transformer, and their checkpoints.
//!
//! Weight names, configuration files and folder layout are those of diffusers and transformers.

mod error;
mod folder;
mod linear;
pub mod lora;
mod precision;
#[cfg(test)]
mod testing;
pub mod text;
pub mod transformer;
pub mod vae;
mod weights;

pub use error::{Error, Result};
pub use folder::{ModelFolder, SchedulerConfig};
pub use linear::{Linear, Lora};
pub use precision::{ComputeDtype, Precision, Quantization};
pub use weights::{Weights, read_metadata, read_safetensors, replace_file, save_safetensors};
