//! What programs call the adapters of a FLUX.2 transformer.

use serde::{Deserialize, Serialize};

use crate::weights::layout::{Part, bfl_module};

/// Whose names a LoRA's file has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LoraFormat {
    /// diffusers and PEFT: `transformer.<module>.lora_A.weight`; rank and alpha in the metadata.
    #[default]
    Diffusers,
    /// ComfyUI and AI Toolkit: `diffusion_model.<Black Forest Labs' module>.lora_A.weight`; alpha is the rank.
    Comfyui,
    /// kohya's sd-scripts and musubi-tuner: `lora_unet_<Black Forest Labs' module with underscores>.lora_down.weight`, with
    /// an `.alpha` for each.
    Kohya,
}

impl LoraFormat {
    /// Ends of the names of A and B.
    pub(super) fn matrices(self) -> [&'static str; 2] {
        match self {
            Self::Diffusers | Self::Comfyui => ["lora_A.weight", "lora_B.weight"],
            Self::Kohya => ["lora_down.weight", "lora_up.weight"],
        }
    }

    /// Where the adapter of diffusers' `module` lies: the beginning of its tensors' names, and which part of that layer's
    /// outputs it is of.
    pub(super) fn stem(self, module: &str) -> (String, Part) {
        match (self, bfl_module(module)) {
            (Self::Comfyui, Some((bfl, part))) => (format!("diffusion_model.{bfl}"), part),
            (Self::Kohya, Some((bfl, part))) => (format!("lora_unet_{}", bfl.replace('.', "_")), part),
            _ => (format!("transformer.{module}"), Part::Whole),
        }
    }
}

/// All beginnings that the tensors of `module`'s adapter may have in files of any program, with the part that they are of.
pub(super) fn stems(module: &str) -> Vec<(String, Part)> {
    let mut stems: Vec<_> = [LoraFormat::Comfyui, LoraFormat::Kohya].map(|format| format.stem(module)).to_vec();
    if let Some((bfl, part)) = bfl_module(module) {
        // Without a prefix, with PEFT's own, and as OneTrainer writes.
        stems.extend([bfl.clone(), format!("base_model.model.{bfl}"), format!("transformer.{bfl}")].map(|s| (s, part)));
    }
    let whole = ["transformer.", "", "diffusion_model.", "base_model.model."].map(|prefix| format!("{prefix}{module}"));
    let underscored = module.replace('.', "_");
    let flat = ["lora_transformer_", "lora_unet_"].map(|prefix| format!("{prefix}{underscored}"));
    stems.extend(whole.into_iter().chain(flat).map(|stem| (stem, Part::Whole)));
    stems
}
