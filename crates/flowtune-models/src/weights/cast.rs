//! Elements of safetensors files, which are little-endian and need not be aligned.

use flowtune_engine::{Result, Tensor};
use half::{bf16, f16};
use safetensors::Dtype;

/// A tensor of the type on disk; `None` for one that the engine does not have.
pub(super) fn keep(dtype: Dtype, bytes: &[u8], shape: &[usize]) -> Option<Result<Tensor>> {
    Some(match dtype {
        Dtype::F32 => Tensor::from_le_bytes::<f32>(bytes, shape),
        Dtype::BF16 => Tensor::from_le_bytes::<bf16>(bytes, shape),
        Dtype::F16 => Tensor::from_le_bytes::<f16>(bytes, shape),
        Dtype::F64 => Tensor::from_le_bytes::<f64>(bytes, shape),
        Dtype::I64 => Tensor::from_le_bytes::<i64>(bytes, shape),
        _ => return None,
    })
}
