//! Products of matrices that are both values; extents `[batch, m, k, n]`.

use candle_core::{Result, Tensor};

/// x·y.
pub(crate) fn matmul(x: &Tensor, y: &Tensor, [batch, m, k, n]: [usize; 4]) -> Result<Tensor> {
    x.reshape((batch, m, k))?.matmul(&y.reshape((batch, k, n))?)
}

/// g·yᵀ.
pub(crate) fn left_gradient(g: &Tensor, y: &Tensor, [batch, m, k, n]: [usize; 4]) -> Result<Tensor> {
    g.reshape((batch, m, n))?.matmul(&y.reshape((batch, k, n))?.t()?)
}

/// xᵀ·g.
pub(crate) fn right_gradient(g: &Tensor, x: &Tensor, [batch, m, k, n]: [usize; 4]) -> Result<Tensor> {
    x.reshape((batch, m, k))?.t()?.matmul(&g.reshape((batch, m, n))?)
}
