//! A file of weights of any kind, and how a weight is put together from what it holds.

use std::ops::Range;
use std::path::Path;

use flowtune_engine::{DType, Tensor};

use super::gguf_file::GgufFile;
use super::layout::Place;
use super::safetensors_file::SafetensorsFile;
use crate::error::{Result, layout_error};

/// An open file of weights.
#[derive(Debug)]
pub(super) enum WeightFile {
    Safetensors(SafetensorsFile),
    Gguf(GgufFile),
}

impl WeightFile {
    pub(super) fn open(path: &Path) -> Result<Self> {
        let extension = path.extension().and_then(|e| e.to_str()).map(str::to_ascii_lowercase);
        match extension.as_deref() {
            Some("gguf") => GgufFile::open(path).map(Self::Gguf),
            Some("pt" | "pth" | "ckpt" | "bin") => {
                let problem = "is a pickle, which can run code when it is read; take the model's safetensors files";
                Err(layout_error(path, problem))
            }
            _ => SafetensorsFile::open(path).map(Self::Safetensors),
        }
    }

    pub(super) fn path(&self) -> &Path {
        match self {
            Self::Safetensors(file) => file.path(),
            Self::Gguf(file) => file.path(),
        }
    }

    pub(super) fn names(&self) -> Box<dyn Iterator<Item = &String> + '_> {
        match self {
            Self::Safetensors(file) => Box::new(file.names()),
            Self::Gguf(file) => Box::new(file.names()),
        }
    }

    pub(super) fn shape(&self, tensor: &str) -> Option<&[usize]> {
        match self {
            Self::Safetensors(file) => file.shape(tensor),
            Self::Gguf(file) => file.shape(tensor),
        }
    }

    /// Type of a tensor's elements, where one of ours holds them.
    pub(super) fn dtype(&self, tensor: &str) -> Option<DType> {
        match self {
            Self::Safetensors(file) => file.dtype(tensor),
            Self::Gguf(_) => None,
        }
    }

    /// A weight of this file in `dtype`.
    pub(super) fn read(&self, place: &Place, dtype: DType) -> Result<Tensor> {
        let name = &place.tensor;
        let unfit = || layout_error(self.path(), format!("tensor {name} has not the shape that its layout asks for"));
        let full = self.shape(name).unwrap_or_default();
        let shape = place.part.shape(full).ok_or_else(unfit)?;
        let weight = match place.part.rows(full.first().copied().unwrap_or(0)) {
            None => self.floats(name, None)?,
            Some(parts) => {
                let parts = parts.into_iter().map(|rows| self.floats(name, Some(rows))).collect::<Result<Vec<_>>>()?;
                Tensor::cat_rows(&parts)?
            }
        };
        let weight = match &place.scale {
            Some(scale) => self.scaled(&weight, scale, place).ok_or_else(unfit)??,
            None => weight,
        };
        Ok(weight.to_dtype(dtype)?.reshape(&shape)?)
    }

    fn floats(&self, tensor: &str, rows: Option<Range<usize>>) -> Result<Tensor> {
        match self {
            Self::Safetensors(file) => file.read_floats(tensor, rows),
            Self::Gguf(file) => file.read_floats(tensor, rows),
        }
    }

    /// `weight` times the factor `scale`: one for all, or one for each row of the whole tensor. `None` where it is neither.
    fn scaled(&self, weight: &Tensor, scale: &str, place: &Place) -> Option<Result<Tensor>> {
        let rows = *self.shape(&place.tensor)?.first()?;
        let multiplied = || -> Result<Option<Tensor>> {
            let all = self.floats(scale, None)?.to_f32_vec()?;
            let of_row: Vec<f32> = match (all.len(), place.part.rows(rows)) {
                (1, _) => vec![all[0]; weight.dim(0)],
                (count, None) if count == rows => all,
                (count, Some(parts)) if count == rows => {
                    parts.into_iter().flat_map(|rows| all[rows].to_vec()).collect()
                }
                _ => return Ok(None),
            };
            let mut values = weight.to_f32_vec()?;
            let row = values.len() / of_row.len().max(1);
            for (values, factor) in values.chunks_exact_mut(row.max(1)).zip(of_row) {
                values.iter_mut().for_each(|value| *value *= factor);
            }
            Ok(Some(Tensor::from_vec(values, weight.shape())?))
        };
        multiplied().transpose()
    }
}
