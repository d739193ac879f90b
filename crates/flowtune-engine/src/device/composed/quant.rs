//! Quantised weights, back to what products take.

use candle_core::{DType, Result, Tensor};

use crate::quant::NF4_BLOCK;

/// Bytes times the scale of their row: codes `[rows, cols]` in two's complement, scales `[rows]`.
pub(crate) fn int8_rows(codes: &Tensor, scales: &Tensor, dtype: DType) -> Result<Tensor> {
    let unsigned = codes.to_dtype(DType::F32)?;
    let signed = (&unsigned - (unsigned.ge(128f32)?.to_dtype(DType::F32)? * 256.0)?)?;
    signed.broadcast_mul(&scales.unsqueeze(1)?)?.to_dtype(dtype)
}

/// nf4 as a matrix of `extents`: codes two in a byte, the first in the high half; scales one for each 64; values `[16]`.
pub(crate) fn nf4([codes, scales, values]: [&Tensor; 3], extents: [usize; 2], dtype: DType) -> Result<Tensor> {
    let n = extents[0] * extents[1];
    let bytes = codes.to_dtype(DType::F32)?;
    let high = (&bytes / 16.0)?.floor()?;
    let low = (bytes - (&high * 16.0)?)?;
    let codes = Tensor::stack(&[high, low], 1)?.flatten_all()?.narrow(0, 0, n)?;
    let scales = scales.unsqueeze(1)?.broadcast_as((scales.dim(0)?, NF4_BLOCK))?.flatten_all()?.narrow(0, 0, n)?;
    let numbers = (values.index_select(&codes.to_dtype(DType::U32)?.contiguous()?, 0)? * scales)?;
    numbers.reshape(&extents[..])?.to_dtype(dtype)
}
