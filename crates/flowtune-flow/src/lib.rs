//! Flow matching for FLUX.2: the training step and the sampler.
//!
//! The behaviour to match is NeMo Automodel's `components/flow_matching`; names are its own. The classes keep
//! its defaults. Where a recipe departs from them, the recipe says so.

mod adapter;
mod context;
mod error;
mod flux2;
mod pipeline;
pub mod random;
pub mod sampling;
pub mod shift;
pub mod timesteps;
pub mod weighting;

pub use adapter::ModelAdapter;
pub use context::{Batch, FlowMatchingContext};
pub use error::{Error, Result};
pub use flux2::Flux2Adapter;
pub use pipeline::{FlowMatchingOptions, FlowMatchingPipeline, Given, Metrics, StepOutput};
