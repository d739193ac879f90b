//! One memory-mapped safetensors file.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::path::{Path, PathBuf};

use flowtune_engine::{DType, Tensor};
use memmap2::Mmap;
use safetensors::SafeTensors;
use safetensors::tensor::TensorInfo;

use super::cast;
use crate::error::{Error, Result, io_error, layout_error};

/// A mapped file whose header has been checked against its length.
#[derive(Debug)]
pub(super) struct Shard {
    path: PathBuf,
    file: File,
    map: Mmap,
    /// Where the elements begin.
    data: usize,
    tensors: BTreeMap<String, TensorInfo>,
    metadata: HashMap<String, String>,
}

impl Shard {
    pub(super) fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).map_err(io_error(path))?;
        // SAFETY: the map is only read, and `bytes` compares the file's length before each use. A file that
        // another process shortens during a read still ends this one, as with every program that maps weights.
        let map = unsafe { Mmap::map(&file) }.map_err(io_error(path))?;
        let (header_len, header) = SafeTensors::read_metadata(&map).map_err(|e| {
            layout_error(path, format!("is not a whole safetensors file ({e}); download or write it again"))
        })?;
        let tensors = header.tensors().into_iter().map(|(name, info)| (name, info.clone())).collect();
        let metadata = header.metadata().clone().unwrap_or_default();
        // The length of the header is itself stored in eight bytes.
        Ok(Self { path: path.to_path_buf(), file, map, data: header_len + 8, tensors, metadata })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn metadata(self) -> HashMap<String, String> {
        self.metadata
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &String> {
        self.tensors.keys()
    }

    pub(super) fn info(&self, name: &str) -> Result<&TensorInfo> {
        self.tensors
            .get(name)
            .ok_or_else(|| Error::WeightsMissing { file: self.path.display().to_string(), tensor: name.to_owned() })
    }

    /// A floating tensor in `dtype`.
    pub(super) fn read_floats(&self, name: &str, dtype: DType) -> Result<Tensor> {
        let info = self.info(name)?;
        match cast::keep(info.dtype, self.bytes(info)?, &info.shape) {
            Some(tensor) if info.dtype != safetensors::Dtype::I64 => Ok(tensor?.to_dtype(dtype)?),
            _ => Err(self.wrong_type(name, info)),
        }
    }

    /// A tensor in the type on disk.
    pub(super) fn read(&self, name: &str) -> Result<Tensor> {
        let info = self.info(name)?;
        let tensor = cast::keep(info.dtype, self.bytes(info)?, &info.shape);
        Ok(tensor.ok_or_else(|| self.wrong_type(name, info))??)
    }

    fn bytes(&self, info: &TensorInfo) -> Result<&[u8]> {
        let len = self.file.metadata().map_err(io_error(&self.path))?.len();
        let (start, end) = info.data_offsets;
        match self.map.get(self.data + start..self.data + end) {
            Some(bytes) if len == self.map.len() as u64 => Ok(bytes),
            _ => Err(layout_error(&self.path, "changed while it was in use; start again")),
        }
    }

    fn wrong_type(&self, name: &str, info: &TensorInfo) -> Error {
        let problem = format!(
            "tensor {name} is stored as {:?}, which is not supported; use a bfloat16, float16 or float32 checkpoint",
            info.dtype
        );
        layout_error(&self.path, problem)
    }
}
