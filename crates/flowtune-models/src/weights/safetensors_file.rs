//! One safetensors file: its header, and elements as they are asked for.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};

use float8::{F8E4M3, F8E5M2};
use flowtune_engine::{DType, Element, Tensor};
use half::{bf16, f16};
use memmap2::Mmap;
use safetensors::tensor::TensorInfo;
use safetensors::{Dtype, SafeTensors};

use super::read_at::read_exact_at;
use crate::error::{Error, Result, io_error, layout_error};

/// An open file whose header has been checked against its length.
#[derive(Debug)]
pub(super) struct SafetensorsFile {
    path: PathBuf,
    file: File,
    /// Where the elements begin.
    data: usize,
    tensors: BTreeMap<String, TensorInfo>,
    metadata: HashMap<String, String>,
}

impl SafetensorsFile {
    pub(super) fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).map_err(io_error(path))?;
        // SAFETY: mapped while the header is read and no longer. A file that another process shortens just then ends
        // this one.
        let map = unsafe { Mmap::map(&file) }.map_err(io_error(path))?;
        let (header_len, header) = SafeTensors::read_metadata(&map).map_err(|e| {
            layout_error(path, format!("is not a whole safetensors file ({e}); download or write it again"))
        })?;
        let tensors = header.tensors().into_iter().map(|(name, info)| (name, info.clone())).collect();
        let metadata = header.metadata().clone().unwrap_or_default();
        // The length of the header is itself stored in eight bytes.
        Ok(Self { path: path.to_path_buf(), file, data: header_len + 8, tensors, metadata })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn metadata(&self) -> &HashMap<String, String> {
        &self.metadata
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &String> {
        self.tensors.keys()
    }

    pub(super) fn shape(&self, name: &str) -> Option<&[usize]> {
        self.tensors.get(name).map(|info| &info.shape[..])
    }

    /// Type of the elements; bfloat16 for 8-bit floats, which it holds.
    pub(super) fn dtype(&self, name: &str) -> Option<DType> {
        match self.tensors.get(name)?.dtype {
            Dtype::BF16 | Dtype::F8_E4M3 | Dtype::F8_E5M2 => Some(DType::BF16),
            Dtype::F16 => Some(DType::F16),
            Dtype::F32 => Some(DType::F32),
            Dtype::F64 => Some(DType::F64),
            _ => None,
        }
    }

    /// A floating tensor, or some rows of its first dimension; 8-bit floats as float32, the others in the type on disk.
    pub(super) fn read_floats(&self, name: &str, rows: Option<Range<usize>>) -> Result<Tensor> {
        let info = self.info(name)?;
        match info.dtype {
            Dtype::F8_E4M3 => self.read_f8(info, rows, |bits| F8E4M3::from_bits(bits).to_f32()),
            Dtype::F8_E5M2 => self.read_f8(info, rows, |bits| F8E5M2::from_bits(bits).to_f32()),
            Dtype::I64 => Err(self.wrong_type(name, info)),
            _ => self.read_rows(name, info, rows),
        }
    }

    /// A tensor in the type on disk.
    pub(super) fn read(&self, name: &str) -> Result<Tensor> {
        self.read_rows(name, self.info(name)?, None)
    }

    fn read_rows(&self, name: &str, info: &TensorInfo, rows: Option<Range<usize>>) -> Result<Tensor> {
        match info.dtype {
            Dtype::F32 => self.elements::<f32>(info, rows),
            Dtype::BF16 => self.elements::<bf16>(info, rows),
            Dtype::F16 => self.elements::<f16>(info, rows),
            Dtype::F64 => self.elements::<f64>(info, rows),
            Dtype::I64 => self.elements::<i64>(info, rows),
            _ => Err(self.wrong_type(name, info)),
        }
    }

    fn elements<T: Element>(&self, info: &TensorInfo, rows: Option<Range<usize>>) -> Result<Tensor> {
        let (shape, start) = part(info, rows);
        Tensor::read_le::<T, _>(&shape, |out| self.bytes_at(start, out))
    }

    /// 8-bit floats have 256 values.
    fn read_f8(&self, info: &TensorInfo, rows: Option<Range<usize>>, value: impl Fn(u8) -> f32) -> Result<Tensor> {
        let (shape, start) = part(info, rows);
        let values: [f32; 256] = std::array::from_fn(|bits| value(bits as u8));
        let mut bytes = vec![0; shape.iter().product()];
        self.bytes_at(start, &mut bytes)?;
        Ok(Tensor::from_vec(bytes.into_iter().map(|bits| values[usize::from(bits)]).collect(), &shape)?)
    }

    fn bytes_at(&self, start: usize, out: &mut [u8]) -> Result<()> {
        read_exact_at(&self.file, out, (self.data + start) as u64).map_err(|e| match e.kind() {
            std::io::ErrorKind::UnexpectedEof => layout_error(&self.path, "changed while it was in use; start again"),
            _ => io_error(&self.path)(e),
        })
    }

    fn info(&self, name: &str) -> Result<&TensorInfo> {
        self.tensors
            .get(name)
            .ok_or_else(|| Error::WeightsMissing { file: self.path.display().to_string(), tensor: name.to_owned() })
    }

    fn wrong_type(&self, name: &str, info: &TensorInfo) -> Error {
        let problem = format!(
            "tensor {name} is stored as {:?}, which is not supported; use a bfloat16, float16, float32 or float8 checkpoint",
            info.dtype
        );
        layout_error(&self.path, problem)
    }
}

/// Shape of these rows of a tensor, and where in the data they start.
fn part(info: &TensorInfo, rows: Option<Range<usize>>) -> (Vec<usize>, usize) {
    let (start, end) = info.data_offsets;
    let mut shape = info.shape.clone();
    match rows {
        Some(rows) => {
            let row = (end - start) / shape[0].max(1);
            shape[0] = rows.len();
            (shape, start + rows.start * row)
        }
        None => (shape, start),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The formats' definition: sign, exponent, fraction.
    fn by_definition(bits: u8, exponent_bits: u32, bias: i32) -> f32 {
        let fraction_bits = 7 - exponent_bits;
        let exponent = i32::from(bits & 0x7f) >> fraction_bits;
        let fraction = f32::from(bits & ((1 << fraction_bits) - 1)) / (1 << fraction_bits) as f32;
        let size = match exponent {
            0 => fraction * 2f32.powi(1 - bias),
            _ => (1.0 + fraction) * 2f32.powi(exponent - bias),
        };
        if bits & 0x80 == 0 { size } else { -size }
    }

    #[test]
    fn all_finite_8_bit_floats_are_as_defined() {
        for bits in (0..=255u8).filter(|bits| bits & 0x7f != 0x7f) {
            assert_eq!(F8E4M3::from_bits(bits).to_f32(), by_definition(bits, 4, 7), "e4m3 {bits:#x}");
        }
        for bits in (0..=255u8).filter(|bits| bits & 0x7c != 0x7c) {
            assert_eq!(F8E5M2::from_bits(bits).to_f32(), by_definition(bits, 5, 15), "e5m2 {bits:#x}");
        }
        assert!(F8E4M3::from_bits(0x7f).to_f32().is_nan());
    }
}
