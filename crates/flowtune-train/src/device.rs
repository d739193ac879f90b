//! What this build of the core computes on, and which hub it would ask: what `flowtune doctor` shows.

use std::path::PathBuf;

use flowtune_hub::Settings;
use serde::Serialize;

use crate::error::Result;
use crate::plan::available_memory;

/// What a build of the core computes on.
#[derive(Debug, Clone, Serialize)]
#[serde(tag = "kind", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum Device {
    /// The processor.
    Cpu {
        /// Threads that compute.
        threads: usize,
        /// Instructions of the products of matrices, by element type.
        instructions: Instructions,
        /// Bytes that a run can take, within the limit of a container.
        available_memory: Option<u64>,
    },
    /// An NVIDIA card.
    Cuda {
        /// What its maker calls it.
        name: String,
        /// Its generation, e.g. `9.0`.
        compute_capability: String,
        /// Bytes that are free on it.
        available_memory: Option<u64>,
    },
}

/// [`flowtune_engine::Instructions`] as JSON.
#[derive(Debug, Clone, Serialize)]
pub struct Instructions {
    /// f32 · f32.
    pub float32: &'static str,
    /// bf16 · bf16.
    pub bfloat16: &'static str,
    /// int8 · int8.
    pub int8: &'static str,
}

/// The device of this build, which is ready to compute when it is named here.
///
/// # Errors
/// `DEVICE_UNAVAILABLE` when a build for CUDA finds no card.
pub fn device() -> Result<Device> {
    if let Some(card) = flowtune_engine::Device::preferred()?.card()? {
        let flowtune_engine::Card { name, compute_capability, available_memory } = card;
        return Ok(Device::Cuda { name, compute_capability, available_memory: Some(available_memory) });
    }
    let flowtune_engine::Instructions { float32, bfloat16, int8 } = flowtune_engine::instructions();
    Ok(Device::Cpu {
        threads: flowtune_engine::num_threads(),
        instructions: Instructions { float32, bfloat16, int8 },
        available_memory: available_memory(),
    })
}

/// How a hub would be used, without what is secret.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct HubSettings {
    /// Base of its URLs.
    pub endpoint: String,
    /// Folder of the cache.
    pub cache: PathBuf,
    /// Whether there is a token.
    pub token: bool,
    /// Whether only the cache may be used.
    pub offline: bool,
}

/// How a hub would be used.
///
/// # Errors
/// `INVALID_ARGUMENT` for a variable that cannot be used.
pub fn hub_settings() -> Result<HubSettings> {
    let Settings { endpoint, cache, token, offline, .. } = Settings::from_env()?;
    Ok(HubSettings { endpoint, cache, token: token.is_some(), offline })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_device_is_told_under_its_kind() {
        let json = serde_json::to_value(device().unwrap()).unwrap();
        assert_eq!(json["kind"], "cpu");
        assert!(json["threads"].as_u64().unwrap() >= 1);
        assert!(json["instructions"]["bfloat16"].is_string());
        assert!(json["availableMemory"].as_u64().unwrap() > 0);
    }
}
