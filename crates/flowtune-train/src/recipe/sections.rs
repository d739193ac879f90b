//! The sections of a recipe with their defaults. The ranges of the numbers are in `rules.rs`.

use std::path::PathBuf;

use flowtune_engine::{DType, Keep};
use flowtune_flow::FlowMatchingOptions;
use flowtune_flow::shift::FlowShift;
use flowtune_flow::timesteps::TimestepSampling;
use flowtune_flow::weighting::LossWeighting;
use flowtune_models::transformer::Offload;
use flowtune_models::{ComputeDtype, Quantization};
use serde::{Deserialize, Serialize};

use super::forms::yes;
use super::prompt::PromptRecipe;

/// Declares an enum that is written in snake_case.
macro_rules! choice {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
        #[serde(rename_all = "snake_case")]
        pub enum $name { $($(#[$variant_doc])* $variant),+ }
    };
}

choice! {
    /// What is trained.
    Mode {
        /// Low-rank adapters.
        #[default]
        Lora,
        /// Every weight of the transformer.
        Full,
    }
}

choice! {
    /// What to do with an image or a caption that cannot be read.
    OnBadFile {
        /// End the run.
        #[default]
        Fail,
        /// Leave it out, with a warning.
        Skip,
    }
}

choice! {
    /// What stands in for a dropped caption.
    CaptionDropoutMode {
        /// The embedding of the empty prompt.
        #[default]
        #[serde(alias = "empty-prompt")]
        EmptyPrompt,
        /// Zeros.
        Zero,
    }
}

choice! {
    /// The optimizer.
    OptimizerType {
        /// Adam with decoupled weight decay.
        #[default]
        Adamw,
    }
}

choice! {
    /// The learning rate after warm-up.
    LrScheduleType {
        /// Half a cosine down to `minLrRatio`.
        #[default]
        Cosine,
        /// A line down to `minLrRatio`.
        Linear,
        /// No change.
        Constant,
    }
}

choice! {
    /// Type in which full fine-tuning writes the transformer.
    WeightsDtype {
        /// As trained.
        #[default]
        Float32,
        /// Half the size.
        Bfloat16,
    }
}

/// The model to start from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ModelRecipe {
    /// Folder of a FLUX.2 pipeline in diffusers layout, or its id on a hub (`owner/name`).
    pub path: PathBuf,
    /// Branch, tag or commit of a hub's model; `main` unless given. A run keeps the commit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<String>,
    /// Another transformer for that pipeline: a folder, or a safetensors or GGUF file, in diffusers' layout, Black Forest
    /// Labs' or ComfyUI's; a file may be a hub's (`owner/name/file.safetensors`, `@revision` behind it).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub transformer: Option<PathBuf>,
    /// Train a step-distilled checkpoint all the same.
    #[serde(default)]
    pub allow_distilled: bool,
    /// Type that the transformer computes in, and of its weights; full fine-tuning keeps the weights in float32.
    #[serde(default)]
    pub dtype: ComputeDtype,
    /// What a LoRA's base is kept in instead.
    #[serde(default)]
    pub quantization: Quantization,
    /// Whether weights of blocks rest in the host's memory, on a card that has no room for all.
    #[serde(default)]
    pub offload: Offload,
}

impl From<OnBadFile> for flowtune_data::OnBadFile {
    fn from(on_bad_file: OnBadFile) -> Self {
        match on_bad_file {
            OnBadFile::Fail => Self::Fail,
            OnBadFile::Skip => Self::Skip,
        }
    }
}

impl From<WeightsDtype> for DType {
    fn from(dtype: WeightsDtype) -> Self {
        match dtype {
            WeightsDtype::Float32 => Self::F32,
            WeightsDtype::Bfloat16 => Self::BF16,
        }
    }
}

/// Declares a section of which every key has a default.
macro_rules! section {
    ($(#[$doc:meta])* $name:ident { $($(#[$field_doc:meta])* $field:ident: $type:ty = $default:expr),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
        #[serde(rename_all = "camelCase", deny_unknown_fields, default)]
        pub struct $name { $($(#[$field_doc])* pub $field: $type),+ }

        impl Default for $name {
            fn default() -> Self {
                Self { $($field: $default),+ }
            }
        }
    };
}

section! {
    /// Low-rank adaptation.
    LoraRecipe {
        /// Rank of the update.
        rank: usize = 16,
        /// The update is scaled by alpha / rank.
        alpha: f64 = 16.0,
        /// Module names or patterns; every linear of both block kinds except modulation and norms unless given.
        #[serde(skip_serializing_if = "Option::is_none")]
        targets: Option<Vec<String>> = None,
        /// A LoRA to go on from, file or folder, in diffusers' format, ComfyUI's or kohya's. Rank, alpha and targets are its.
        #[serde(skip_serializing_if = "Option::is_none")]
        from: Option<PathBuf> = None,
    }
}

section! {
    /// The flow-matching loss.
    FlowMatchingRecipe {
        /// How σ is drawn.
        timestep_sampling: TimestepSampling = TimestepSampling::LogitNormal,
        /// Mean of the logit-normal.
        logit_mean: f64 = 0.0,
        /// Standard deviation of the logit-normal.
        logit_std: f64 = 1.0,
        /// First parameter of the Beta distribution under `beta`.
        beta_alpha: f64 = 2.5,
        /// Second parameter of the Beta distribution under `beta`.
        beta_beta: f64 = 1.5,
        /// Shift of σ.
        flow_shift: FlowShift = FlowShift::Dynamic,
        /// σ is clamped to at least this.
        sigma_min: f64 = 0.0,
        /// σ is clamped to at most this.
        sigma_max: f64 = 1.0,
        /// With this probability a whole batch is drawn uniformly instead.
        mix_uniform_ratio: f64 = 0.0,
        /// False: σ ~ U(0, 1) without shift.
        use_sigma_noise: bool = true,
        /// Weight of each sample by its σ.
        loss_weighting: LossWeighting = LossWeighting::None,
        /// Guidance that a guidance-embedded model is told while training.
        guidance_scale: f64 = 1.0,
        /// Probability that a sample's caption is dropped.
        caption_dropout: f64 = 0.05,
        /// What stands in for a dropped caption.
        caption_dropout_mode: CaptionDropoutMode = CaptionDropoutMode::EmptyPrompt,
        /// A loss above this, or not finite, ends the run.
        max_loss: f64 = 100.0,
    }
}

impl FlowMatchingRecipe {
    /// The same as options of the flow-matching step.
    pub fn options(&self) -> FlowMatchingOptions {
        FlowMatchingOptions {
            timestep_sampling: self.timestep_sampling,
            logit_mean: self.logit_mean,
            logit_std: self.logit_std,
            beta_alpha: self.beta_alpha,
            beta_beta: self.beta_beta,
            flow_shift: self.flow_shift,
            sigma_min: self.sigma_min,
            sigma_max: self.sigma_max,
            mix_uniform_ratio: self.mix_uniform_ratio,
            use_sigma_noise: self.use_sigma_noise,
            loss_weighting: self.loss_weighting,
            cfg_dropout_prob: self.caption_dropout,
            max_loss: self.max_loss,
        }
    }
}

section! {
    /// The optimizer.
    OptimizerRecipe {
        /// Which one.
        r#type: OptimizerType = OptimizerType::Adamw,
        /// Learning rate after warm-up.
        lr: f64 = 1e-4,
        /// Decay of the first moment.
        beta1: f64 = 0.9,
        /// Decay of the second moment.
        beta2: f64 = 0.999,
        /// Added to the root of the second moment.
        eps: f64 = 1e-8,
        /// Decoupled weight decay.
        weight_decay: f64 = 0.01,
    }
}

section! {
    /// The learning rate over the run.
    LrScheduleRecipe {
        /// Its course after warm-up.
        r#type: LrScheduleType = LrScheduleType::Cosine,
        /// Steps of linear warm-up from zero.
        warmup_steps: u64 = 0,
        /// Where the schedule ends, as a share of `optimizer.lr`.
        min_lr_ratio: f64 = 0.0,
    }
}

/// Steps and batches.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TrainRecipe {
    /// Optimizer steps.
    pub steps: u64,
    /// Samples of one forward pass.
    #[serde(default = "one")]
    pub batch_size: usize,
    /// Forward passes of one optimizer step.
    #[serde(default = "one")]
    pub gradient_accumulation: usize,
    /// Gradients are clipped to this global norm; 0 switches clipping off.
    #[serde(default = "default_max_grad_norm")]
    pub max_grad_norm: f64,
    /// All randomness is a function of this, the step and the sample.
    #[serde(default)]
    pub seed: u64,
    /// Recompute each block in the backward pass instead of keeping its activations.
    #[serde(default = "yes")]
    pub activation_checkpointing: bool,
    /// Instead of all or none: keep the activations of as many blocks as fit while tensors take at most this many gigabytes
    /// (10⁹ bytes), weights and optimizer included, and recompute the others. Of what is kept, what is cheap is recomputed too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_budget: Option<f64>,
    /// Begin even where the run is planned to take more memory than there is.
    #[serde(default)]
    pub allow_over_memory: bool,
}

impl TrainRecipe {
    /// What the tape of a step keeps.
    pub fn keep(&self) -> Keep {
        match (self.memory_budget, self.activation_checkpointing) {
            (Some(gigabytes), _) => Keep::Within((gigabytes * 1e9) as usize),
            (None, true) => Keep::Inputs,
            (None, false) => Keep::Everything,
        }
    }
}

fn one() -> usize {
    1
}

fn default_max_grad_norm() -> f64 {
    1.0
}

section! {
    /// When to save everything that an exact resume needs.
    CheckpointRecipe {
        /// Every so many steps, besides the end.
        every_steps: u64 = 250,
        /// How many of the latest are kept.
        keep: usize = 2,
    }
}

section! {
    /// Evaluation and sample images.
    ValidationRecipe {
        /// Prompts of the sample images made before and after training.
        prompts: Vec<PromptRecipe> = Vec::new(),
        /// Evaluate every so many steps, besides before and after.
        #[serde(skip_serializing_if = "Option::is_none")]
        every_steps: Option<u64> = None,
        /// The σ at which the held-out loss is taken.
        sigmas: Vec<f64> = vec![0.1, 0.3, 0.5, 0.7, 0.9],
        /// Euler steps of a sample image.
        sample_steps: usize = 28,
        /// Classifier-free guidance of a sample image; 1 switches it off.
        sample_guidance: f64 = 4.0,
        /// Seed of the sample images.
        sample_seed: u64 = 0,
    }
}

section! {
    /// Where the run goes.
    OutputRecipe {
        /// The run folder.
        dir: PathBuf = PathBuf::from("runs/run"),
        /// Type of the transformer's weights after full fine-tuning; a LoRA is always float32.
        weights_dtype: WeightsDtype = WeightsDtype::Float32,
    }
}
