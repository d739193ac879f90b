//! Flow matching for FLUX.2: the training step and the sampler.
//!
//! The behaviour to match is NeMo Automodel's `components/flow_matching`; names are its own. The classes keep
//! its defaults. Where a recipe departs from them, the recipe says so.

mod adapter;
mod check;
mod context;
mod error;
mod flow_matching;
mod flux2;
mod metrics;
mod options;
mod pipeline;
pub mod random;
mod references;
pub mod sampling;
pub mod shift;
pub mod timesteps;
pub mod weighting;

pub use adapter::ModelAdapter;
pub use context::{Batch, FlowMatchingContext};
pub use error::{Error, Result};
pub use flow_matching::{FlowMatching, Given, Key, PreparedStep, StepOutput};
pub use flux2::Flux2Adapter;
pub use metrics::Metrics;
pub use options::FlowMatchingOptions;
pub use pipeline::FlowMatchingPipeline;
