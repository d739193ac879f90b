//! Reference cases of the Python stack, for tests.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use flowtune_engine::Tensor;
use serde_json::Value;

use crate::folder::read_json;
use crate::weights::{Weights, read_safetensors};

/// Bound on [`relative_error`] of forward values in float32.
pub(crate) const FORWARD: f64 = 1e-4;

pub(crate) fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../__test__/fixtures/parity")
}

/// One computation: its description, its weights, and its tensors `in.*` and `expect.*`.
pub(crate) struct Case {
    pub(crate) info: Value,
    pub(crate) weights: Weights,
    tensors: HashMap<String, Tensor>,
}

impl Case {
    pub(crate) fn read(name: &str) -> Self {
        let folder = fixtures().join("cases").join(name);
        let tensors = read_safetensors(folder.join("tensors.safetensors")).unwrap();
        let weights = tensors.iter().filter_map(|(k, t)| Some((k.strip_prefix("weights.")?.to_owned(), t.clone())));
        let weights = Weights::from_tensors(weights.collect());
        Self { info: read_json(&folder.join("case.json")).unwrap(), weights, tensors }
    }

    pub(crate) fn tensor(&self, name: &str) -> &Tensor {
        self.tensors.get(name).unwrap_or_else(|| panic!("the case has no tensor {name}"))
    }
}

/// max|a − b| / max|b|; infinite when the shapes differ or a is not finite.
pub(crate) fn relative_error(a: &Tensor, b: &Tensor) -> f64 {
    if a.shape() != b.shape() {
        return f64::INFINITY;
    }
    let (a, b) = (a.to_f32_vec().unwrap(), b.to_f32_vec().unwrap());
    if a.iter().any(|x| !x.is_finite()) {
        return f64::INFINITY;
    }
    let most = |values: &mut dyn Iterator<Item = f32>| values.fold(0f32, |m, x| m.max(x.abs()));
    let difference = most(&mut a.iter().zip(&b).map(|(a, b)| a - b));
    f64::from(difference) / f64::from(most(&mut b.iter().copied()))
}

#[track_caller]
pub(crate) fn assert_close(a: &Tensor, b: &Tensor, bound: f64) {
    let error = relative_error(a, b);
    assert!(error <= bound, "relative error {error:e} of {:?} against {:?}", a.shape(), b.shape());
}

/// A safetensors file in bfloat16 of these names and shapes with a hole where the elements would be: as large as the real
/// one to read, and nothing on the disk.
pub(crate) fn write_hollow<'a>(
    path: &Path,
    weights: impl Iterator<Item = (&'a str, &'a [usize])>,
) -> std::io::Result<()> {
    let (mut header, mut end) = (serde_json::Map::new(), 0);
    for (name, shape) in weights {
        let start = end;
        end += 2 * shape.iter().product::<usize>();
        let entry = serde_json::json!({ "dtype": "BF16", "shape": shape, "data_offsets": [start, end] });
        header.insert(name.to_owned(), entry);
    }
    let header = serde_json::to_vec(&header)?;
    std::fs::write(path, [&(header.len() as u64).to_le_bytes()[..], &header].concat())?;
    std::fs::OpenOptions::new().write(true).open(path)?.set_len((8 + header.len() + end) as u64)
}
