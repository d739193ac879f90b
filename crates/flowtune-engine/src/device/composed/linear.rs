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

/// Gradients of x, the weight, A and B, those that are needed; of matrices, where x is kept.
pub(crate) fn linear_backward(
    x: Option<&Tensor>,
    weight: &Tensor,
    low_rank: Option<&LowRank>,
    g: &Tensor,
    needs: &[bool],
) -> Result<Vec<Option<Tensor>>> {
    let mut gradients = vec![None; needs.len()];
    if needs[0] {
        gradients[0] = Some(input_gradient(g, weight, low_rank)?);
    }
    let Some(x) = x else { return Ok(gradients) };
    if needs[1] {
        gradients[1] = Some(product(&g.t()?, x)?);
    }
    if let Some(low_rank) = low_rank {
        [gradients[2], gradients[3]] = low_rank_gradients(x, g, low_rank, [needs[2], needs[3]])?;
    }
    Ok(gradients)
}

/// g·W + scale·(g·B)·A: g `[rows, out]` → `[rows, in]`.
fn input_gradient(g: &Tensor, weight: &Tensor, low_rank: Option<&LowRank>) -> Result<Tensor> {
    let weight = weight.to_dtype(g.dtype())?;
    let Some(LowRank { a, b, scale }) = low_rank else { return product_in(g, &weight, g.dtype()) };
    let low = (wide(g)?.matmul(b)? * *scale)?.matmul(a)?;
    (product(g, &weight)? + low)?.to_dtype(g.dtype())
}

/// Gradients of A and B, those that are needed.
fn low_rank_gradients(x: &Tensor, g: &Tensor, low_rank: &LowRank, needs: [bool; 2]) -> Result<[Option<Tensor>; 2]> {
    let (x, g, LowRank { a, b, scale }) = (wide(x)?, wide(g)?, low_rank);
    let of_a = || (g.matmul(b)? * *scale)?.t()?.matmul(&x);
    let of_b = || g.t()?.matmul(&(x.matmul(&a.t()?)? * *scale)?);
    Ok([needs[0].then(of_a).transpose()?, needs[1].then(of_b).transpose()?])
}
