//! From the VAE's output to pixels.

use flowtune_engine::Tensor;

use crate::error::Result;

/// x/2 + 0.5, clamped to 0..1: decoded `[batch, 3, H, W]` in about −1..1 → image of the same shape.
///
/// # Errors
/// `SHAPE_MISMATCH` when the tensor is not float32.
pub fn image_from_decoded(decoded: &Tensor) -> Result<Tensor> {
    let mut image = decoded.clone();
    image.as_mut_slice::<f32>()?.iter_mut().for_each(|x| *x = (*x / 2.0 + 0.5).clamp(0.0, 1.0));
    Ok(image)
}
