//! Elements of safetensors files, which are little-endian and need not be aligned.

use flowtune_engine::{Element, Tensor};
use half::{bf16, f16};
use safetensors::Dtype;

/// A tensor of the type on disk; `None` for one that the engine does not have.
pub(super) fn keep(dtype: Dtype, bytes: &[u8], shape: &[usize]) -> Option<flowtune_engine::Result<Tensor>> {
    fn tensor<T: Element>(data: Vec<T>, shape: &[usize]) -> Option<flowtune_engine::Result<Tensor>> {
        Some(Tensor::from_vec(data, shape))
    }
    match dtype {
        Dtype::F32 => tensor(elements(bytes, f32::from_le_bytes), shape),
        Dtype::BF16 => tensor(elements(bytes, bf16::from_le_bytes), shape),
        Dtype::F16 => tensor(elements(bytes, f16::from_le_bytes), shape),
        Dtype::F64 => tensor(elements(bytes, f64::from_le_bytes), shape),
        Dtype::I64 => tensor(elements(bytes, i64::from_le_bytes), shape),
        _ => None,
    }
}

fn elements<const N: usize, T>(bytes: &[u8], convert: impl Fn([u8; N]) -> T) -> Vec<T> {
    bytes.as_chunks::<N>().0.iter().map(|&chunk| convert(chunk)).collect()
}
