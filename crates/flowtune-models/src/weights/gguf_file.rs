//! One GGUF file, as ComfyUI's GGUF nodes use them for transformers: quantised by blocks, read as float32.
//! Source: the GGUF specification of ggml; candle reads header and blocks.

use std::collections::HashMap;
use std::fs::File;
use std::io::BufReader;
use std::ops::Range;
use std::path::{Path, PathBuf};

use candle_core::Device;
use candle_core::quantized::gguf_file::{Content, TensorInfo};
use candle_core::quantized::{GgmlDType, ggml_file::qtensor_from_ggml};
use flowtune_engine::Tensor;

use super::read_at::read_exact_at;
use crate::error::{Error, Result, io_error, layout_error};

/// An open file whose header has been checked against its length.
#[derive(Debug)]
pub(super) struct GgufFile {
    path: PathBuf,
    file: File,
    /// Where the blocks begin.
    data: u64,
    tensors: HashMap<String, Blocks>,
}

/// Where a tensor is.
#[derive(Debug)]
struct Blocks {
    dtype: GgmlDType,
    shape: Vec<usize>,
    offset: u64,
}

impl GgufFile {
    pub(super) fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).map_err(io_error(path))?;
        let len = file.metadata().map_err(io_error(path))?.len();
        let damaged = |e: &dyn std::fmt::Display| {
            layout_error(path, format!("is not a whole GGUF file ({e}); download or write it again"))
        };
        let content = Content::read(&mut BufReader::new(&file)).map_err(|e| damaged(&e))?;
        let data = content.tensor_data_offset;
        let mut tensors = HashMap::new();
        for (name, info) in content.tensor_infos {
            let end = size(&info).and_then(|size| data.checked_add(info.offset)?.checked_add(size));
            if end.is_none_or(|end| end > len) {
                return Err(damaged(&format!("{name} does not fit into it")));
            }
            let shape = info.shape.dims().to_vec();
            tensors.insert(name, Blocks { dtype: info.ggml_dtype, shape, offset: info.offset });
        }
        Ok(Self { path: path.to_path_buf(), file, data, tensors })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &String> {
        self.tensors.keys()
    }

    pub(super) fn shape(&self, name: &str) -> Option<&[usize]> {
        self.tensors.get(name).map(|blocks| &blocks.shape[..])
    }

    /// A tensor, or some rows of its first dimension, as float32.
    pub(super) fn read_floats(&self, name: &str, rows: Option<Range<usize>>) -> Result<Tensor> {
        let missing = || Error::WeightsMissing { file: self.path.display().to_string(), tensor: name.to_owned() };
        let Blocks { dtype, shape, offset } = self.tensors.get(name).ok_or_else(missing)?;
        let mut shape = shape.clone();
        let row_bytes = shape[1..].iter().product::<usize>() / dtype.block_size() * dtype.type_size();
        let rows = rows.unwrap_or(0..shape[0]);
        shape[0] = rows.len();
        let mut bytes = vec![0; rows.len() * row_bytes];
        let start = self.data + offset + (rows.start * row_bytes) as u64;
        read_exact_at(&self.file, &mut bytes, start).map_err(io_error(&self.path))?;
        let values = qtensor_from_ggml(*dtype, &bytes, shape.clone(), &Device::Cpu)
            .and_then(|blocks| blocks.dequantize(&Device::Cpu)?.flatten_all()?.to_vec1::<f32>())
            .map_err(|e| layout_error(&self.path, format!("tensor {name} cannot be dequantised ({e})")))?;
        Ok(Tensor::from_vec(values, &shape)?)
    }
}

/// Bytes of a tensor whose rows are whole blocks.
fn size(info: &TensorInfo) -> Option<u64> {
    let dims = info.shape.dims();
    let row = *dims.last()?;
    let count = dims.iter().try_fold(1usize, |count, &dim| count.checked_mul(dim))?;
    let (block, bytes) = (info.ggml_dtype.block_size(), info.ggml_dtype.type_size());
    let whole = block == 1 || (dims.len() > 1 && row % block == 0);
    whole.then_some((count / block).checked_mul(bytes)? as u64)
}
