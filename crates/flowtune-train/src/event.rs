//! What a run tells while it works. Bars, plots, logs and files consume it; the loop knows none of them.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Held-out loss at one noise level.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct SigmaLoss {
    /// Noise level, 0..1.
    pub sigma: f64,
    /// Mean squared error of the velocity.
    pub loss: f64,
}

/// What progress counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Unit {
    /// Of a download.
    Bytes,
}

/// One event, as a line of `events.jsonl` and as JavaScript sees it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum Event {
    /// The run began, or went on after a resume.
    Started {
        /// The run folder, absolute.
        run_dir: PathBuf,
        /// Optimizer steps of the whole run, those before a resume included.
        total_steps: u64,
        /// Numbers that train.
        trainable_parameters: u64,
    },
    /// Work other than training steps: caching, verifying, sampling.
    Progress {
        /// What is being done, in words.
        stage: String,
        /// How much is done.
        done: u64,
        /// Of how much.
        total: u64,
        /// What is counted, where it is not pieces of work.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        unit: Option<Unit>,
    },
    /// One optimizer step.
    Step {
        /// Counted from 1.
        step: u64,
        /// Optimizer steps of the whole run.
        total_steps: u64,
        /// Weighted loss, mean over the step's samples.
        loss: f64,
        /// Global norm of the gradients before clipping.
        grad_norm: f64,
        /// Learning rate of the step.
        lr: f64,
        /// Wall-clock seconds.
        seconds_per_step: f64,
        /// Mean noise level of the step's samples.
        sigma_mean: f64,
    },
    /// Held-out loss at fixed σ and fixed noise.
    Evaluation {
        /// 0 is before training.
        step: u64,
        /// Mean over the noise levels.
        loss: f64,
        /// By noise level.
        per_sigma: Vec<SigmaLoss>,
    },
    /// A sample image was written.
    Sample {
        /// 0 is before training.
        step: u64,
        /// The PNG, absolute.
        path: PathBuf,
        /// What it was asked for.
        prompt: String,
    },
    /// A checkpoint was written.
    Checkpoint {
        /// Steps done.
        step: u64,
        /// Its folder, absolute.
        path: PathBuf,
    },
    /// Something the user should know that does not stop the run.
    Warning {
        /// Stable code.
        code: String,
        /// In words.
        message: String,
    },
    /// The run ended well.
    Finished(TrainSummary),
}

impl Event {
    /// [`Event::Warning`] in one call.
    pub fn warning(code: &str, message: impl Into<String>) -> Self {
        Self::Warning { code: code.into(), message: message.into() }
    }
}

/// What a training run leaves. Paths are absolute.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TrainSummary {
    /// The run folder.
    pub run_dir: PathBuf,
    /// Optimizer steps done.
    pub steps: u64,
    /// The LoRA in diffusers/PEFT form, or the transformer after full fine-tuning.
    pub weights: PathBuf,
    /// Held-out loss before training; absent without held-out images.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub evaluation_before: Option<f64>,
    /// Held-out loss after training.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub evaluation_after: Option<f64>,
    /// Sample images before training, in the order of `validation.prompts`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub samples_before: Vec<PathBuf>,
    /// Sample images after training.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub samples_after: Vec<PathBuf>,
    /// The loss plot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plot: Option<PathBuf>,
    /// The report.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub report: Option<PathBuf>,
    /// Wall-clock seconds of training steps.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub training_seconds: Option<f64>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_what_javascript_expects() {
        let event = Event::Step {
            step: 1,
            total_steps: 2,
            loss: 0.5,
            grad_norm: 1.5,
            lr: 1e-4,
            seconds_per_step: 0.25,
            sigma_mean: 0.5,
        };
        let json = r#"{"type":"step","step":1,"totalSteps":2,"loss":0.5,"gradNorm":1.5,"lr":0.0001,"secondsPerStep":0.25,"sigmaMean":0.5}"#;
        assert_eq!(serde_json::to_string(&event).unwrap(), json);
        assert_eq!(serde_json::from_str::<Event>(json).unwrap(), event);
        let finished =
            Event::Finished(TrainSummary { run_dir: "/r".into(), weights: "/r/lora".into(), ..Default::default() });
        let json = r#"{"type":"finished","runDir":"/r","steps":0,"weights":"/r/lora"}"#;
        assert_eq!(serde_json::to_string(&finished).unwrap(), json);
        assert_eq!(serde_json::from_str::<Event>(json).unwrap(), finished);
    }
}
