//! Matrix products whose sums are not rounded to the type of their operands, as candle's own are.

use candle_core::{DType, Result, Tensor};

use super::wide;

/// a·b of the same type, `[.., m, k]` × `[.., k, n]`, in the type in which that is computed.
pub(super) fn product(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    wide(a)?.matmul(&wide(b)?)
}

/// As [`product`], rounded to `dtype`.
pub(super) fn product_in(a: &Tensor, b: &Tensor, dtype: DType) -> Result<Tensor> {
    match a.dtype() == dtype {
        true => a.matmul(b),
        false => product(a, b)?.to_dtype(dtype),
    }
}
