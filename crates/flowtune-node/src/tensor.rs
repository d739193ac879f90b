//! Tensors as handles: their data stays in the core unless JavaScript asks for a copy.

use std::sync::{Mutex, PoisonError};

use flowtune_engine::{DType, Tensor as EngineTensor};
use napi::bindgen_prelude::{BigInt64Array, Float32Array};
use napi_derive::napi;

use crate::error::{Failure, Result, guarded};

/// A tensor, or nothing after `dispose`.
#[napi]
pub struct Tensor {
    inner: Mutex<Option<EngineTensor>>,
}

impl Tensor {
    /// The engine's tensor, which shares its storage with this one.
    pub fn get(&self) -> Result<EngineTensor, Failure> {
        let inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.clone().ok_or_else(|| Failure::new("INVALID_ARGUMENT", "this tensor was disposed of"))
    }
}

impl From<EngineTensor> for Tensor {
    fn from(tensor: EngineTensor) -> Self {
        Self { inner: Mutex::new(Some(tensor)) }
    }
}

#[napi]
impl Tensor {
    /// Copies `data` into a float32 tensor of `shape`.
    #[napi(factory)]
    pub fn from_float32(data: &[f32], shape: Vec<u32>) -> Result<Self> {
        guarded(|| Ok(EngineTensor::from_vec(data.to_vec(), &extents(&shape))?.into()))
    }

    /// Copies `data` into an int64 tensor of `shape`.
    #[napi(factory)]
    pub fn from_int64(data: &[i64], shape: Vec<u32>) -> Result<Self> {
        guarded(|| Ok(EngineTensor::from_vec(data.to_vec(), &extents(&shape))?.into()))
    }

    /// Extents, outermost first.
    #[napi(getter)]
    pub fn shape(&self) -> Result<Vec<u32>> {
        guarded(|| self.get()?.shape().iter().map(|&extent| to_u32(extent)).collect())
    }

    /// Element type as PyTorch names it.
    #[napi(getter)]
    pub fn dtype(&self) -> Result<&'static str> {
        guarded(|| Ok(self.get()?.dtype().name()))
    }

    /// A copy of the data in float32.
    #[napi]
    pub fn to_float32_array(&self) -> Result<Float32Array> {
        guarded(|| Ok(self.get()?.to_f32_vec()?.into()))
    }

    /// A copy of an int64 tensor's data.
    #[napi]
    pub fn to_big_int64_array(&self) -> Result<BigInt64Array> {
        guarded(|| {
            let tensor = self.get()?;
            if tensor.dtype() != DType::I64 {
                let message = format!("only an int64 tensor has integers, and this one is {}", tensor.dtype().name());
                return Err(Failure::new("SHAPE_MISMATCH", message));
            }
            Ok(tensor.as_slice::<i64>()?.to_vec().into())
        })
    }

    /// Frees the memory now.
    #[napi]
    pub fn dispose(&self) {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner).take();
    }
}

fn extents(shape: &[u32]) -> Vec<usize> {
    shape.iter().map(|&extent| extent as usize).collect()
}

fn to_u32(extent: usize) -> Result<u32, Failure> {
    let message = "an extent of this tensor is too large for JavaScript";
    u32::try_from(extent).map_err(|_| Failure::new("SHAPE_MISMATCH", message))
}
