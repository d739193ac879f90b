//! FLUX.2's models as the engine runs them: VAE, text encoders, tokenizers, transformer, and their checkpoints.
//!
//! Weight names, configuration files and folder layout are those of diffusers and transformers.

mod error;
mod linear;
pub mod lora;
pub mod transformer;
mod weights;

pub use error::{Error, Result};
pub use linear::{Linear, Lora};
pub use weights::{Weights, read_metadata, read_safetensors, replace_file, save_safetensors};
