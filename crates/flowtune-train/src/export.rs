//! A LoRA in another program's format.

use std::fs;
use std::path::{Path, PathBuf};

use flowtune_models::lora::{Adapter, LoraFormat, lora_file, lora_file_notes, read_adapters, write_adapters};
use flowtune_models::transformer::{Flux2Config, Flux2Transformer};
use serde::{Deserialize, Serialize};

use crate::control::Control;
use crate::error::{Error, Result};
use crate::output_path::must_be_free;

/// What `export` is asked for.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ExportOptions {
    /// A run folder, or a LoRA in any format, file or folder.
    pub lora: PathBuf,
    /// Whose names to write.
    pub format: LoraFormat,
    /// The safetensors file to write; must not exist.
    pub out: PathBuf,
}

/// What `export` wrote.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ExportSummary {
    /// The file.
    pub path: PathBuf,
    /// Its names.
    pub format: LoraFormat,
    /// Layers with an adapter.
    pub adapters: usize,
    /// Largest difference, over all layers, of what the file adds to a weight from what the LoRA adds, relative to the
    /// largest element of that.
    pub max_relative_difference: f64,
}

/// Two float32 products of the same numbers in another order differ by less.
const SAME: f64 = 1e-5;

/// Writes a LoRA in another format, reads the file again and compares the effect on every layer. No model is needed.
///
/// # Errors
/// `INVALID_ARGUMENT` when `out` exists; `CHECKPOINT_LAYOUT` when `lora` is none; `IO`.
pub fn export(options: ExportOptions, control: &Control) -> Result<ExportSummary> {
    must_be_free(&options.out)?;
    // The largest model has the layers of all others too.
    let (largest, _) = Flux2Transformer::outline(Flux2Config::default())?;
    let modules = largest.linear_names();
    let lora = given_lora(&options.lora);
    let adapters = read_adapters(&lora, &modules)?;
    write_adapters(&options.out, &adapters, options.format, &lora_file_notes(&lora)?)?;
    let written = read_adapters(&options.out, &modules)?;
    let mut largest = 0f64;
    for (i, adapter) in adapters.iter().enumerate() {
        largest = largest.max(difference(adapter, &written)?);
        control.progress("checking", i + 1, adapters.len());
    }
    if largest > SAME || written.len() != adapters.len() {
        fs::remove_file(&options.out).map_err(Error::io(&options.out, "removed"))?;
        return Err(Error::Internal(format!("the exported LoRA differs by {largest:e} from the one it was made of")));
    }
    let (path, format) = (options.out, options.format);
    Ok(ExportSummary { path, format, adapters: adapters.len(), max_relative_difference: largest })
}

/// The LoRA of a run folder, or the file or folder itself.
pub(crate) fn given_lora(path: &Path) -> PathBuf {
    let of_run = path.join("lora");
    lora_file(if of_run.is_dir() { &of_run } else { path })
}

/// max|ΔW' − ΔW| / max|ΔW| of the layer of `adapter`; infinite where `written` has none.
fn difference(adapter: &Adapter, written: &[Adapter]) -> Result<f64> {
    let Some(other) = written.iter().find(|other| other.module == adapter.module) else {
        return Ok(f64::INFINITY);
    };
    let (want, got) = (adapter.delta()?.to_f32_vec()?, other.delta()?.to_f32_vec()?);
    let most = |values: &mut dyn Iterator<Item = f32>| values.fold(0f32, |most, x| most.max(x.abs()));
    let size = most(&mut want.iter().copied());
    let off = most(&mut want.iter().zip(&got).map(|(want, got)| want - got));
    Ok(if off == 0.0 { 0.0 } else { f64::from(off) / f64::from(size) })
}
