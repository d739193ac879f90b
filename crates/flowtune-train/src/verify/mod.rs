//! Parity with the reference stack: recomputes what PyTorch, diffusers, peft and NeMo Automodel computed, and
//! compares tensor by tensor.

mod case;
mod flow;
mod models;
mod pipeline;
mod train;

use std::fs;
use std::path::{Path, PathBuf};

use flowtune_engine::Device;
use flowtune_models::{ComputeDtype, Precision, Quantization};
use serde::{Deserialize, Serialize};

use crate::control::Control;
use crate::error::{Error, Result};
use case::Case;

/// One tensor against the reference.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct TensorCheck {
    /// Its name in the case.
    pub name: String,
    /// Worst error: max|a−b| / max|b|, or max|a−b| for images; infinite when shapes differ or a value is NaN.
    #[serde(serialize_with = "finite")]
    pub error: f64,
    /// What is allowed.
    pub bound: f64,
    /// Whether it is within the bound.
    pub ok: bool,
}

/// JSON knows no infinity.
fn finite<S: serde::Serializer>(error: &f64, s: S) -> std::result::Result<S::Ok, S::Error> {
    s.serialize_f64(if error.is_finite() { *error } else { f64::MAX })
}

/// One case.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct CaseReport {
    /// Name of its folder.
    pub name: String,
    /// What it checks.
    pub kind: String,
    /// Whether everything is within its bound.
    pub ok: bool,
    /// The tensors, in order.
    pub tensors: Vec<TensorCheck>,
    /// Why it could not be computed, if so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

/// What `verify` is asked for.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct VerifyOptions {
    /// Cases, or folders of cases.
    pub paths: Vec<PathBuf>,
    /// Type that `train` cases are computed in; the others are float32 only, and left out for another.
    #[serde(default)]
    pub dtype: ComputeDtype,
    /// What the base of their LoRAs is kept in.
    #[serde(default)]
    pub quantization: Quantization,
    /// What models compute on.
    #[serde(default)]
    pub device: DeviceKind,
}

/// What computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DeviceKind {
    /// What this build is for.
    #[default]
    Preferred,
    /// candle's operations in host memory: what accelerators run, slowly.
    Composed,
    /// The same with the kernels for CUDA, emulated.
    #[cfg(feature = "emulate")]
    Emulated,
}

impl DeviceKind {
    fn device(self) -> Result<Device> {
        Ok(match self {
            Self::Preferred => Device::preferred()?,
            Self::Composed => Device::composed(),
            #[cfg(feature = "emulate")]
            Self::Emulated => Device::emulated(),
        })
    }
}

/// How cases are computed.
#[derive(Debug, Clone, PartialEq)]
struct Setup {
    precision: Precision,
    device: Device,
}

impl Setup {
    /// In which everything is computed.
    fn is_plain(&self) -> bool {
        self.precision == Precision::FLOAT32
    }
}

/// All cases.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct VerifyReport {
    /// Whether every case is ok.
    pub ok: bool,
    /// The cases, by name.
    pub cases: Vec<CaseReport>,
}

/// Runs the cases under each of the paths: a case (`case.json`), a whole model folder with what is expected of it
/// (`expect.json`), or a folder of those.
///
/// # Errors
/// `DATA_UNREADABLE` when a folder holds no case; `DEVICE_UNAVAILABLE`. A case that fails is in the report, not an error.
pub fn verify(options: VerifyOptions, control: &Control) -> Result<VerifyReport> {
    let mut folders = Vec::new();
    for path in &options.paths {
        folders.extend(find(path)?);
    }
    let precision = Precision { dtype: options.dtype, quantization: options.quantization, trainable: false };
    let setup = Setup { precision, device: options.device.device()? };
    let mut cases = Vec::new();
    for (i, folder) in folders.iter().enumerate() {
        if control.is_cancelled() {
            return Err(Error::Cancelled { checkpoint: None });
        }
        cases.extend(run(folder, &setup));
        control.progress("verifying", i + 1, folders.len());
    }
    Ok(VerifyReport { ok: cases.iter().all(|c| c.ok), cases })
}

fn is_case(folder: &Path) -> bool {
    folder.join("case.json").is_file() || folder.join("expect.json").is_file()
}

fn find(path: &Path) -> Result<Vec<PathBuf>> {
    if is_case(path) {
        return Ok(vec![path.to_path_buf()]);
    }
    let entries = fs::read_dir(path).map_err(Error::io(path, "read"))?;
    let mut folders: Vec<PathBuf> = entries.flatten().map(|e| e.path()).filter(|p| is_case(p)).collect();
    folders.sort();
    match folders.is_empty() {
        true => Err(Error::layout(path, "holds no case.json or expect.json; name a folder of parity cases")),
        false => Ok(folders),
    }
}

/// The report of a case; none when it is not computed in this way.
fn run(folder: &Path, setup: &Setup) -> Option<CaseReport> {
    let name = folder.file_name().map_or_else(|| folder.display().to_string(), |n| n.to_string_lossy().into());
    let mut kind = "unknown".to_owned();
    match compute(folder, setup, &mut kind) {
        Ok(tensors) => {
            let ok = tensors.as_ref()?.iter().all(|t| t.ok);
            Some(CaseReport { name, kind, ok, tensors: tensors?, message: None })
        }
        Err(e) => {
            let message = Some(format!("{}: {e}", e.code()));
            Some(CaseReport { name, kind, ok: false, tensors: Vec::new(), message })
        }
    }
}

fn compute(folder: &Path, setup: &Setup, kind: &mut String) -> Result<Option<Vec<TensorCheck>>> {
    let plain = setup.is_plain();
    if folder.join("expect.json").is_file() {
        *kind = "pipeline".to_owned();
        return plain.then(|| pipeline::run(folder, &setup.device)).transpose();
    }
    let case = Case::open(folder)?;
    case.kind().clone_into(kind);
    match case.kind() {
        "train" if !plain => {
            train::run(&case, setup)?;
            return Ok(Some(case.checks()));
        }
        _ if !plain => return Ok(None),
        "adapter" => flow::adapter(&case)?,
        "schedule" => flow::schedule(&case)?,
        "train" => train::run(&case, setup)?,
        "vae" => models::vae(&case, &setup.device)?,
        "text" => models::text(&case, &setup.device)?,
        "sample" => models::sample(&case, &setup.device)?,
        other => return Err(Error::layout(folder, format!("kind `{other}` is not known to this version"))),
    }
    case.finish().map(Some)
}
