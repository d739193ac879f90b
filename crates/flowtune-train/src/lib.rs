//! From a recipe to a run: optimizer, schedule, checkpoints, evaluation, events, report.
//!
//! [`resolve_recipe`] checks a recipe; the run tells its [`Event`]s through a [`Control`] and leaves a
//! [`RunFolder`].

mod control;
mod device;
mod download;
mod error;
mod evaluate;
mod event;
mod explain;
mod export;
mod imaging;
mod inspect;
mod lora_notes;
mod lr_schedule;
mod merge;
mod model_source;
mod optimizer;
mod output_path;
mod plan;
pub mod plot;
mod prepare;
mod recipe;
mod reference;
pub mod report;
mod run;
mod run_folder;
mod sample;
mod session;
mod trainable;
pub mod verify;

pub use control::Control;
pub use device::{Device, HubSettings, Instructions, device, hub_settings};
pub use download::{DownloadOptions, DownloadSummary, download};
pub use error::{Error, Result};
pub use evaluate::{EvaluateOptions, EvaluateSummary, evaluate};
pub use event::{Event, SigmaLoss, TrainSummary, Unit};
pub use explain::{Bucket, Explanation, ModuleGroup, Shift, draw_explanation, explain};
pub use export::{ExportOptions, ExportSummary, export};
pub use flowtune_hub::Part;
pub use imaging::image_from_decoded;
pub use inspect::inspect;
pub use lr_schedule::LrSchedule;
pub use merge::{MergeOptions, MergeSummary, merge};
pub use model_source::local_path;
pub use optimizer::{AdamW, clip_grad_norm};
pub use plan::{
    Component, ComponentSize, DiskPlan, MemoryPlan, Phase, PhaseName, Plan, PlanOptions, Setting, Switch, TimePlan,
    plan,
};
pub use prepare::{BucketSummary, PrepareOptions, PrepareSummary, prepare};
pub use recipe::*;
pub use run::{TrainOptions, train};
pub use run_folder::{Checkpoint, RunFolder, list_checkpoints, read_events, read_recipe};
pub use sample::{SampleOptions, SampleSummary, sample, sample_latents};
pub use session::{Session, flow_batch};
