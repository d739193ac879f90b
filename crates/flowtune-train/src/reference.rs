//! Reference images of an edit: from files to latents.

use std::fs;
use std::path::Path;

use flowtune_data::{Error as DataError, Size, bucket_for, decode_image, decode_whole_image, image_size};
use flowtune_engine::{Tape, Tensor, Var};

use crate::error::Result;

/// Larger images are scaled down to so many pixels.
const MAX_PIXELS: usize = 1024 * 1024;
/// Sides are cut to a multiple of this: 8 of the VAE times 2 of the patches.
const MULTIPLE: usize = 16;

/// Pixels of a reference image, `[1, 3, height, width]` in −1..1, as diffusers' `Flux2Pipeline` prepares them: in its own
/// size, or scaled down to about 1024² pixels if it has more, the middle cut out so that the sides are multiples of 16.
///
/// # Errors
/// `DATA_UNREADABLE` naming the file when it is no image, or has less than 16 pixels on a side.
pub(crate) fn load_reference(path: &Path) -> Result<Tensor> {
    let bytes = read(path)?;
    let scaled = at_most(image_size(&bytes, path)?, MAX_PIXELS);
    let cut = |side: usize| side / MULTIPLE * MULTIPLE;
    let (width, height) = (cut(scaled.width), cut(scaled.height));
    if width == 0 || height == 0 {
        let reason = format!("has too few pixels for a reference image; {MULTIPLE} on each side are the least");
        return Err(DataError::unreadable(path, reason).into());
    }
    let (tape, image) = (Tape::inference(), Var::constant(decode_whole_image(&bytes, path, scaled)?));
    let image = tape.narrow(&image, 1, (scaled.height - height) / 2, height)?;
    let image = tape.narrow(&image, 2, (scaled.width - width) / 2, width)?;
    Ok(image.tensor().reshape(&[1, 3, height, width])?)
}

/// `size`, or the size of about `pixels` with the same proportions if that has less.
fn at_most(size: Size, pixels: usize) -> Size {
    let own = size.width * size.height;
    if own <= pixels {
        return size;
    }
    let scale = (pixels as f64 / own as f64).sqrt();
    let scaled = |side: usize| (side as f64 * scale) as usize;
    Size { width: scaled(size.width), height: scaled(size.height) }
}

/// Pixels of a reference image, `[1, 3, height, width]` in −1..1, as training sees it beside an image of `resolution`: about
/// its own proportions, with the pixels of that square.
///
/// # Errors
/// `DATA_UNREADABLE` naming the file.
pub(crate) fn load_reference_at(path: &Path, resolution: usize) -> Result<Tensor> {
    let bytes = read(path)?;
    let own = image_size(&bytes, path)?;
    let Size { width, height } = bucket_for(own.width, own.height, resolution);
    let image = decode_image(&bytes, path, Size { width, height })?;
    Ok(image.reshape(&[1, 3, height, width])?)
}

fn read(path: &Path) -> Result<Vec<u8>> {
    Ok(fs::read(path).map_err(|e| DataError::unreadable(path, format!("cannot be read ({e})")))?)
}

#[cfg(test)]
mod tests {
    use flowtune_data::save_png;

    use super::*;

    fn size(width: usize, height: usize) -> Size {
        Size { width, height }
    }

    #[test]
    fn large_images_keep_their_proportions_and_small_ones_their_size() {
        assert_eq!(at_most(size(1024, 1024), MAX_PIXELS), size(1024, 1024));
        assert_eq!(at_most(size(70, 90), MAX_PIXELS), size(70, 90));
        // diffusers `_resize_to_target_area`, which truncates.
        assert_eq!(at_most(size(4000, 3000), MAX_PIXELS), size(1182, 886));
        assert_eq!(at_most(size(3000, 4000), MAX_PIXELS), size(886, 1182));
    }

    #[test]
    fn the_middle_is_cut_out_and_not_scaled() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.png");
        // Each pixel has a grey of its own: 8 bits of (y, x).
        let value = |x: usize, y: usize| ((x + 7 * y) % 256) as f32 / 255.0;
        let pixels = (0..3).flat_map(|_| (0..21).flat_map(|y| (0..37).map(move |x| value(x, y))));
        save_png(&Tensor::from_vec(pixels.collect(), &[3, 21, 37]).unwrap(), &path).unwrap();
        let got = load_reference(&path).unwrap();
        assert_eq!(got.shape(), [1, 3, 16, 32]);
        // 37 → 32 leaves 2 to the left and 3 to the right, 21 → 16 likewise.
        for (i, got) in got.as_slice::<f32>().unwrap()[..16 * 32].iter().enumerate() {
            let want = value(i % 32 + 2, i / 32 + 2) * 2.0 - 1.0;
            assert!((got - want).abs() < 1e-5, "pixel {i}: {got} {want}");
        }
    }

    #[test]
    fn what_is_no_image_or_too_small_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.png");
        let missing = load_reference(&path).unwrap_err();
        fs::write(&path, "no image").unwrap();
        let text = load_reference(&path).unwrap_err();
        save_png(&Tensor::full(0.5f32, &[3, 15, 40]), &path).unwrap();
        let small = load_reference(&path).unwrap_err();
        for (error, words) in [(missing, "cannot be read"), (text, "not an image"), (small, "too few pixels")] {
            assert_eq!(error.code(), "DATA_UNREADABLE");
            assert!(error.to_string().contains("a.png") && error.to_string().contains(words), "{error}");
        }
    }
}
