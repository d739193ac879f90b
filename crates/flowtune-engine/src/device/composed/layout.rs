//! Moves, and sums over what was repeated.

use candle_core::{DType, Result, Tensor};

use super::compute;

/// Columns `start..start + size` of the last dimension.
pub(crate) fn cut(x: &Tensor, start: usize, size: usize) -> Result<Tensor> {
    x.narrow(x.rank() - 1, start, size)?.contiguous()
}

/// Side by side along the last dimension.
pub(crate) fn join(parts: &[Tensor]) -> Result<Tensor> {
    Tensor::cat(parts, parts[0].rank() - 1)?.contiguous()
}

/// Dimensions in another order.
pub(crate) fn permute(x: &Tensor, dims: &[usize]) -> Result<Tensor> {
    x.permute(dims)?.contiguous()
}

/// `[batch, rows, cols]` → `[batch, cols, rows]`.
pub(crate) fn swap(x: &Tensor, batch: usize, rows: usize, cols: usize) -> Result<Tensor> {
    x.reshape((batch, rows, cols))?.transpose(1, 2)?.contiguous()
}

/// x repeated to `shape`.
pub(crate) fn broadcast_to(x: &Tensor, shape: &[usize]) -> Result<Tensor> {
    x.broadcast_as(shape)?.contiguous()
}

/// Sums over the dimensions along which `shape` was repeated to that of x.
pub(crate) fn sum_to(x: &Tensor, shape: &[usize]) -> Result<Tensor> {
    let new = x.rank() - shape.len();
    let is_repeated = |&i: &usize| i < new || shape[i - new] == 1 && x.dims()[i] != 1;
    let dims: Vec<usize> = (0..x.rank()).filter(is_repeated).collect();
    x.to_dtype(compute(x.dtype()))?.sum_keepdim(dims)?.to_dtype(x.dtype())?.reshape(shape)
}

/// Rows `ids` of `table` `[vocabulary, dim]`: ids `[..]` → `[.., dim]`.
pub(crate) fn embedding(ids: &Tensor, table: &Tensor) -> Result<Tensor> {
    let shape = [ids.dims(), &table.dims()[1..]].concat();
    table.index_select(&ids.flatten_all()?.to_dtype(DType::U32)?, 0)?.reshape(shape)
}
