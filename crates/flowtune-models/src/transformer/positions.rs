//! Rotary tables from 4-D position ids. Source: diffusers `Flux2PosEmbed`.

use flowtune_engine::ops::rope::RopeTable;
use flowtune_engine::{DType, Tensor};

use crate::error::Result;

/// cos and sin of `[1 or batch, tokens, head_dim/2]` for ids `[batch, tokens, axes]` (int64), text first.
/// Angles are formed in f64. When all samples have the same ids, the table holds them once.
pub(crate) fn rope_table(
    text_ids: &Tensor,
    image_ids: &Tensor,
    axes_dims: &[usize],
    theta: f64,
    dtype: DType,
) -> Result<RopeTable> {
    let frequencies: Vec<Vec<f64>> =
        axes_dims.iter().map(|&dim| (0..dim / 2).map(|i| theta.powf(-2.0 * i as f64 / dim as f64)).collect()).collect();
    let (text, image) = (text_ids.as_slice::<i64>()?, image_ids.as_slice::<i64>()?);
    let batch = text_ids.dim(0);
    let (text_row, image_row) = (text.len() / batch, image.len() / batch);
    let same = |ids: &[i64], row: usize| ids.chunks_exact(row.max(1)).all(|c| c == &ids[..row]);
    let tables = if same(text, text_row) && same(image, image_row) { 1 } else { batch };
    let mut angles = Vec::new();
    for b in 0..tables {
        let rows = [&text[b * text_row..][..text_row], &image[b * image_row..][..image_row]];
        for position in rows.concat().chunks_exact(axes_dims.len()) {
            for (&p, frequencies) in position.iter().zip(&frequencies) {
                angles.extend(frequencies.iter().map(|f| p as f64 * f));
            }
        }
    }
    let half: usize = axes_dims.iter().map(|d| d / 2).sum();
    let shape = [tables, angles.len() / (tables * half), half];
    let table = |f: fn(f64) -> f64| -> Result<Tensor> {
        let values = angles.iter().map(|&a| f(a)).collect::<Vec<f64>>();
        Ok(Tensor::from_vec(values, &shape)?.to_dtype(dtype)?)
    };
    Ok(RopeTable { cos: table(f64::cos)?, sin: table(f64::sin)? })
}
