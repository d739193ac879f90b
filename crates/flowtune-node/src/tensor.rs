//! Tensors as handles: their data stays in the core unless JavaScript asks for a copy.

use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Mutex, PoisonError};

use flowtune_engine::{DType, Device, Tensor as EngineTensor, Value, on_this_thread};
use flowtune_flow::random::{Purpose, normal_batch};
use napi::bindgen_prelude::{
    BigInt64Array, Float32Array, Float64Array, FromNapiValue, ObjectFinalize, TypeName, ValidateNapiValue,
};
use napi::{Env, ValueType, sys};
use napi_derive::napi;

use crate::error::{Failure, Result, guarded};

/// A tensor with its place in a graph, or nothing after `dispose`.
#[napi(custom_finalize)]
pub struct Tensor {
    inner: Mutex<Option<Value>>,
    /// Bytes that V8 was told about.
    accounted: AtomicI64,
}

impl Tensor {
    /// The value, which shares its storage with this handle.
    pub fn value(&self) -> Result<Value, Failure> {
        let inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.clone().ok_or_else(|| Failure::new("INVALID_ARGUMENT", "this tensor was disposed of"))
    }

    /// The value without its graph.
    pub fn get(&self) -> Result<EngineTensor, Failure> {
        Ok(self.value()?.tensor().clone())
    }

    fn account_for(&self, env: &Env, bytes: i64) {
        let before = self.accounted.swap(bytes, Ordering::Relaxed);
        // V8 only counts: a call that fails in a closing environment costs nothing.
        drop(env.adjust_external_memory(bytes - before));
    }
}

/// A tensor as a field of an object: its value at the time of the call, or why there is none.
pub struct TensorField(Result<Value, Failure>);

impl TensorField {
    /// The value.
    pub fn value(self) -> Result<Value, Failure> {
        self.0
    }

    /// The value without its graph.
    pub fn get(self) -> Result<EngineTensor, Failure> {
        Ok(self.0?.tensor().clone())
    }
}

/// The tensors of optional fields.
pub fn optional_field(field: Option<TensorField>) -> Result<Option<EngineTensor>, Failure> {
    field.map(TensorField::get).transpose()
}

/// The tensors of a list of lists.
pub fn nested_fields(fields: Option<Vec<Vec<TensorField>>>) -> Result<Vec<Vec<EngineTensor>>, Failure> {
    let lists = fields.unwrap_or_default().into_iter();
    lists.map(|fields| fields.into_iter().map(TensorField::get).collect()).collect()
}

impl TypeName for TensorField {
    fn type_name() -> &'static str {
        "Tensor"
    }

    fn value_type() -> ValueType {
        ValueType::Object
    }
}

impl ValidateNapiValue for TensorField {}

impl FromNapiValue for TensorField {
    unsafe fn from_napi_value(env: sys::napi_env, value: sys::napi_value) -> napi::Result<Self> {
        // SAFETY: the arguments are those that napi called with.
        let tensor = unsafe { <&Tensor>::from_napi_value(env, value) }?;
        Ok(Self(tensor.value()))
    }
}

/// The tensors of optional arguments.
pub fn optional(tensor: Option<&Tensor>) -> Result<Option<EngineTensor>, Failure> {
    tensor.map(Tensor::get).transpose()
}

impl From<Value> for Tensor {
    fn from(value: Value) -> Self {
        Self { inner: Mutex::new(Some(value)), accounted: AtomicI64::new(0) }
    }
}

impl From<EngineTensor> for Tensor {
    fn from(tensor: EngineTensor) -> Self {
        Value::constant(tensor).into()
    }
}

impl ObjectFinalize for Tensor {
    fn finalize(self, env: Env) -> napi::Result<()> {
        self.account_for(&env, 0);
        Ok(())
    }
}

#[napi]
impl Tensor {
    /// Copies `data` into a float32 tensor of `shape`.
    #[napi(factory)]
    pub fn from_float32(data: &[f32], shape: Vec<u32>) -> Result<Self> {
        guarded(|| Ok(EngineTensor::from_vec(data.to_vec(), &extents(&shape))?.into()))
    }

    /// Copies `data` into a float64 tensor of `shape`.
    #[napi(factory)]
    pub fn from_float64(data: &[f64], shape: Vec<u32>) -> Result<Self> {
        guarded(|| Ok(EngineTensor::from_vec(data.to_vec(), &extents(&shape))?.into()))
    }

    /// Copies `data` into an int64 tensor of `shape`.
    #[napi(factory)]
    pub fn from_int64(data: &[i64], shape: Vec<u32>) -> Result<Self> {
        guarded(|| Ok(EngineTensor::from_vec(data.to_vec(), &extents(&shape))?.into()))
    }

    /// A float32 tensor of one value.
    #[napi(factory)]
    pub fn full(value: f64, shape: Vec<u32>) -> Result<Self> {
        guarded(|| Ok(EngineTensor::full(value as f32, &extents(&shape)).into()))
    }

    /// Standard normal noise, float32: sample i of the first dimension is a function of the seed, the step and i.
    #[napi(factory)]
    pub fn randn(shape: Vec<u32>, seed: f64, step: f64) -> Result<Self> {
        guarded(|| {
            let shape = extents(&shape);
            let rows = if shape.is_empty() { vec![1] } else { shape.clone() };
            Ok(normal_batch(seed as u64, step as u64, 0, Purpose::Noise, &rows)?.reshape(&shape)?.into())
        })
    }

    /// Tells V8 of the memory behind this handle.
    #[napi]
    pub fn account(&self, env: Env) -> Result<()> {
        guarded(|| {
            self.account_for(&env, self.get()?.bytes() as i64);
            Ok(())
        })
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

    /// Whether a gradient flows back through it.
    #[napi(getter)]
    pub fn is_tracked(&self) -> Result<bool> {
        guarded(|| Ok(self.value()?.is_tracked()))
    }

    /// A copy of the data in float32.
    #[napi]
    pub fn to_float32_array(&self) -> Result<Float32Array> {
        guarded(|| on_this_thread(|| Ok(self.get()?.to_f32_vec()?.into())))
    }

    /// A copy of the data in float64.
    #[napi]
    pub fn to_float64_array(&self) -> Result<Float64Array> {
        guarded(|| {
            on_this_thread(|| {
                Ok(self.get()?.to_device(&Device::cpu())?.to_dtype(DType::F64)?.as_slice::<f64>()?.to_vec().into())
            })
        })
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
            Ok(tensor.to_device(&Device::cpu())?.as_slice::<i64>()?.to_vec().into())
        })
    }

    /// The only element.
    #[napi]
    pub fn item(&self) -> Result<f64> {
        guarded(|| Ok(self.get()?.to_scalar()?))
    }

    /// The same elements in another floating type, without a graph.
    #[napi]
    pub fn to(&self, dtype: String) -> Result<Self> {
        guarded(|| {
            let dtype = dtype_named(&dtype)?;
            on_this_thread(|| Ok(self.get()?.to_dtype(dtype)?.into()))
        })
    }

    /// The same value without its graph.
    #[napi]
    pub fn detach(&self) -> Result<Self> {
        guarded(|| Ok(self.value()?.detach().into()))
    }

    /// Another handle to the same value.
    #[napi]
    pub fn share(&self) -> Result<Self> {
        guarded(|| Ok(self.value()?.into()))
    }

    /// Frees the memory now.
    #[napi]
    pub fn dispose(&self, env: Env) {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner).take();
        self.account_for(&env, 0);
    }
}

/// Extents as the engine takes them.
pub fn extents(shape: &[u32]) -> Vec<usize> {
    shape.iter().map(|&extent| extent as usize).collect()
}

/// An element type by PyTorch's name.
pub fn dtype_named(name: &str) -> Result<DType, Failure> {
    let all = [DType::F32, DType::F64, DType::BF16, DType::F16, DType::I64];
    all.into_iter().find(|dtype| dtype.name() == name).ok_or_else(|| {
        let known = all.map(DType::name).join(", ");
        Failure::new("INVALID_ARGUMENT", format!("dtype must be one of {known}, got \"{name}\""))
    })
}

fn to_u32(extent: usize) -> Result<u32, Failure> {
    let message = "an extent of this tensor is too large for JavaScript";
    u32::try_from(extent).map_err(|_| Failure::new("SHAPE_MISMATCH", message))
}
