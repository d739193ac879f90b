//! A case on disk: what was computed, with which tensors, and what must come out.

use std::cell::RefCell;
use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};

use flowtune_engine::{DType, Device, Tensor};
use flowtune_models::{Weights, read_safetensors};
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::TensorCheck;
use crate::error::{Error, Result};

/// Bound of forward values.
pub(super) const FORWARD: f64 = 1e-4;
/// Bound of gradients and trained weights.
pub(super) const GRADIENT: f64 = 1e-3;
/// Bound of the loss of a bfloat16 run.
pub(super) const BFLOAT16_LOSS: f64 = 1e-2;
/// Bound of 1 − cos between gradients of a bfloat16 run and the reference's.
pub(super) const BFLOAT16_DIRECTION: f64 = 1e-3;
/// The same where candle's operations compute, which round elsewhere: what the worst gradient of `torch.autocast` comes
/// to (docs/decisions/0008-precision.md).
pub(super) const AUTOCAST_DIRECTION: f64 = 1.6e-3;
/// The same two over an int8 base.
pub(super) const INT8_LOSS: f64 = 2e-2;
pub(super) const INT8_DIRECTION: f64 = 1e-2;
/// Bound of the loss over an nf4 base. Its gradients are not the reference's: those of a model whose weights are a tenth off.
pub(super) const NF4_LOSS: f64 = 5e-2;
/// Bound of ids.
pub(super) const EXACT: f64 = 0.0;

pub(super) struct Case {
    folder: PathBuf,
    kind: String,
    info: Value,
    tensors: HashMap<String, Tensor>,
    used: RefCell<BTreeSet<String>>,
    checks: RefCell<Vec<TensorCheck>>,
}

impl Case {
    pub(super) fn open(folder: &Path) -> Result<Self> {
        let file = folder.join("case.json");
        let text = std::fs::read_to_string(&file).map_err(Error::io(&file, "read"))?;
        let mut info: Value = serde_json::from_str(&text).map_err(|e| Error::layout(&file, e.to_string()))?;
        let kind = info.as_object_mut().and_then(|o| o.remove("kind"));
        let kind = kind.and_then(|k| k.as_str().map(str::to_owned));
        Ok(Self {
            folder: folder.to_path_buf(),
            kind: kind.ok_or_else(|| Error::layout(&file, "has no `kind`"))?,
            info,
            tensors: read_safetensors(folder.join("tensors.safetensors"))?,
            used: RefCell::default(),
            checks: RefCell::default(),
        })
    }

    pub(super) fn kind(&self) -> &str {
        &self.kind
    }

    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Everything in `case.json` but the kind; a key that `T` does not know is an error.
    pub(super) fn info<T: DeserializeOwned>(&self) -> Result<T> {
        let file = self.folder.join("case.json");
        T::deserialize(&self.info).map_err(|e| Error::layout(&file, e.to_string()))
    }

    fn take(&self, name: &str) -> Result<Tensor> {
        self.used.borrow_mut().insert(name.to_owned());
        let file = || self.folder.join("tensors.safetensors");
        self.tensors.get(name).cloned().ok_or_else(|| Error::layout(&file(), format!("has no tensor {name}")))
    }

    pub(super) fn input(&self, name: &str) -> Result<Tensor> {
        self.take(&format!("in.{name}"))
    }

    /// The names of tensors that begin with `prefix`, without it.
    pub(super) fn names(&self, prefix: &str) -> Vec<String> {
        let mut names: Vec<String> =
            self.tensors.keys().filter_map(|k| k.strip_prefix(prefix)).map(str::to_owned).collect();
        names.sort();
        names
    }

    /// The tensors under `weights.<scope>`.
    pub(super) fn weights(&self, scope: &str) -> Result<HashMap<String, Tensor>> {
        let prefix = format!("weights.{scope}");
        self.names(&prefix).into_iter().map(|n| Ok((n.clone(), self.take(&format!("{prefix}{n}"))?))).collect()
    }

    pub(super) fn model_weights(&self, scope: &str) -> Result<Weights> {
        Ok(Weights::from_tensors(self.weights(scope)?))
    }

    /// Compares with `expect.<name>`.
    pub(super) fn expect(&self, name: &str, got: &Tensor, bound: f64) -> Result<()> {
        let want = self.take(&format!("expect.{name}"))?;
        self.checks.borrow_mut().push(compare(name, got, &want, bound)?);
        Ok(())
    }

    /// Compares the direction with that of `expect.<name>`: 1 − cos of the angle between them.
    pub(super) fn expect_direction(&self, name: &str, got: &Tensor, bound: f64) -> Result<()> {
        let want = self.take(&format!("expect.{name}"))?.to_dtype(DType::F64)?;
        let got = got.to_device(&Device::cpu())?.to_dtype(DType::F64)?;
        let (a, b) = (got.as_slice::<f64>()?, want.as_slice::<f64>()?);
        let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
        let error = match got.shape() == want.shape() {
            true => 1.0 - dot(a, b) / (dot(a, a) * dot(b, b)).sqrt(),
            false => f64::INFINITY,
        };
        // Not `error > bound`: a NaN is off.
        let ok = error <= bound;
        self.checks.borrow_mut().push(TensorCheck { name: name.to_owned(), error, bound, ok });
        Ok(())
    }

    /// The checks, whether or not everything in the case was used.
    pub(super) fn checks(self) -> Vec<TensorCheck> {
        self.checks.into_inner()
    }

    /// The checks, if the case held nothing that was not used.
    pub(super) fn finish(self) -> Result<Vec<TensorCheck>> {
        let used = self.used.into_inner();
        let mut unknown: Vec<&String> = self.tensors.keys().filter(|k| !used.contains(*k)).collect();
        unknown.sort();
        match unknown.first() {
            Some(name) => {
                let reason = format!("holds {name}, which means nothing to this version");
                Err(Error::layout(&self.folder.join("tensors.safetensors"), reason))
            }
            None => Ok(self.checks.into_inner()),
        }
    }
}

/// max|a−b| / max|b| against `bound`; integers and shapes exactly.
pub(super) fn compare(name: &str, got: &Tensor, want: &Tensor, bound: f64) -> Result<TensorCheck> {
    let got = &got.to_device(&Device::cpu())?;
    let error = if got.shape() != want.shape() {
        f64::INFINITY
    } else if want.dtype() == DType::I64 {
        let differ = got.dtype() != DType::I64 || got.as_slice::<i64>()? != want.as_slice::<i64>()?;
        f64::from(u8::from(differ))
    } else {
        let (got, want) = (got.to_dtype(DType::F64)?, want.to_dtype(DType::F64)?);
        let (difference, scale) = extremes(got.as_slice()?, want.as_slice()?);
        if scale > 0.0 { difference / scale } else { difference }
    };
    Ok(TensorCheck { name: name.to_owned(), error, bound, ok: error <= bound })
}

/// max|a−b|, infinite when anything is NaN, and max|b|.
pub(super) fn extremes(a: &[f64], b: &[f64]) -> (f64, f64) {
    a.iter().zip(b).fold((0.0, 0.0), |(difference, scale): (f64, f64), (a, b)| {
        let d = (a - b).abs();
        (difference.max(if d.is_nan() { f64::INFINITY } else { d }), scale.max(b.abs()))
    })
}
