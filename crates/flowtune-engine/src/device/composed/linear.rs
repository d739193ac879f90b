//! Linear layers; shapes as [`crate::Tape::linear`], with the rows of x as one dimension.

use candle_core::{DType, Result, Tensor};

use super::product::{product, product_in};
use super::{compute, wide};

/// scale·B·A, as [`crate::ops::linear::LowRank`], in the type of the computation.
pub(crate) struct LowRank {
    pub(crate) a: Tensor,
    pub(crate) b: Tensor,
    pub(crate) scale: f64,
}

impl LowRank {
    /// The same with matrices in the type in which `dtype` is computed.
    pub(crate) fn new(a: &Tensor, b: &Tensor, scale: f64, dtype: DType) -> Result<Self> {
        Ok(Self { a: a.to_dtype(compute(dtype))?, b: b.to_dtype(compute(dtype))?, scale })
    }
}

/// x·Wᵀ + scale·(x·Aᵀ)·Bᵀ in `dtype`: x `[rows, in]` → `[rows, out]`.
pub(crate) fn linear(x: &Tensor, weight: &Tensor, low_rank: Option<&LowRank>, dtype: DType) -> Result<Tensor> {
    let weight = weight.to_dtype(x.dtype())?.t()?;
    let Some(LowRank { a, b, scale }) = low_rank else { return product_in(x, &weight, dtype) };
    let low = (wide(x)?.matmul(&a.t()?)? * *scale)?.matmul(&b.t()?)?;
    (product(x, &weight)? + low)?.to_dtype(dtype)
}

/// g·W + scale·(g·B)·A: g `[rows, out]` → `[rows, in]`.
pub(crate) fn input_gradient(g: &Tensor, weight: &Tensor, low_rank: Option<&LowRank>) -> Result<Tensor> {
    let weight = weight.to_dtype(g.dtype())?;
    let Some(LowRank { a, b, scale }) = low_rank else { return product_in(g, &weight, g.dtype()) };
    let low = (wide(g)?.matmul(b)? * *scale)?.matmul(a)?;
    (product(g, &weight)? + low)?.to_dtype(g.dtype())
}

/// gᵀ·x, `[out, in]`, in the type of the computation.
pub(crate) fn weight_gradient(g: &Tensor, x: &Tensor) -> Result<Tensor> {
    product(&g.t()?, x)
}

/// Gradients of A and B, those that are needed.
pub(crate) fn low_rank_gradients(
    x: &Tensor,
    g: &Tensor,
    low_rank: &LowRank,
    needs: [bool; 2],
) -> Result<[Option<Tensor>; 2]> {
    let (x, g, LowRank { a, b, scale }) = (wide(x)?, wide(g)?, low_rank);
    let of_a = || (g.matmul(b)? * *scale)?.t()?.matmul(&x);
    let of_b = || g.t()?.matmul(&(x.matmul(&a.t()?)? * *scale)?);
    Ok([needs[0].then(of_a).transpose()?, needs[1].then(of_b).transpose()?])
}
