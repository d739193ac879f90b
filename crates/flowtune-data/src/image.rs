//! From an image file to a tensor, and back to a PNG.

use std::fs;
use std::io::Cursor;
use std::path::Path;

use ::image::{DynamicImage, ImageDecoder, ImageFormat, ImageReader, RgbImage};
use fast_image_resize::{FilterType, PixelType, ResizeAlg, ResizeOptions, Resizer, images::Image};
use flowtune_engine::Tensor;

use crate::atomic;
use crate::error::{Error, Result};

/// Sides of an image must be a multiple of this: 8 of the VAE times 2 of the patches.
const MULTIPLE: usize = 16;

/// Version of what [`decode_image`] does; part of the cache's keys.
pub(crate) const PREPROCESSING: u32 = 1;

/// Width and height in pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Size {
    /// Width.
    pub width: usize,
    /// Height.
    pub height: usize,
}

/// The size in multiples of 16 that is nearest in aspect to `width`×`height` and has about `resolution`² pixels,
/// never more; sides are at most twice `resolution`.
pub fn bucket_for(width: usize, height: usize, resolution: usize) -> Size {
    let aspect = width.max(1) as f64 / height.max(1) as f64;
    let budget = resolution * resolution;
    let candidates = (MULTIPLE..=2 * resolution).step_by(MULTIPLE).filter_map(|width| {
        let height = (budget / width / MULTIPLE * MULTIPLE).min(2 * resolution);
        (height >= MULTIPLE).then_some(Size { width, height })
    });
    let off = |size: &Size| (size.width as f64 / size.height as f64 / aspect).ln().abs();
    let square = Size { width: resolution, height: resolution };
    candidates.min_by(|a, b| off(a).total_cmp(&off(b))).filter(|best| off(best) < off(&square)).unwrap_or(square)
}

/// Reads an image file as [`decode_image`] does.
///
/// # Errors
/// `DATA_UNREADABLE` naming the file.
pub fn load_image(path: &Path, target: Size) -> Result<Tensor> {
    let bytes = fs::read(path).map_err(|e| Error::unreadable(path, format!("cannot be read ({e})")))?;
    decode_image(&bytes, path, target)
}

/// Image `[3, height, width]`, f32 in −1..1, from the bytes of a PNG, JPEG or WebP file: turned upright (EXIF),
/// transparency on white, scaled (Lanczos) until it covers `target`, the middle cut out. `path` is for the message.
///
/// # Errors
/// `DATA_UNREADABLE` naming the file.
pub fn decode_image(bytes: &[u8], path: &Path, target: Size) -> Result<Tensor> {
    let rgb = on_white(decode_upright(bytes, path)?);
    let scaled = cover(rgb, target).map_err(|e| Error::unreadable(path, format!("cannot be resized ({e})")))?;
    Ok(to_tensor(&scaled, target)?)
}

/// Width and height after turning upright, from the header alone.
pub(crate) fn image_size(bytes: &[u8], path: &Path) -> Result<Size> {
    let mut decoder = decoder(bytes, path)?;
    let (width, height) = decoder.dimensions();
    let turned = decoder.orientation().is_ok_and(|o| o.to_exif() >= 5);
    let (width, height) = if turned { (height, width) } else { (width, height) };
    Ok(Size { width: width as usize, height: height as usize })
}

/// Whether the file begins as an image; its pixels are not decoded.
pub(crate) fn check_image(path: &Path) -> Result<()> {
    let unreadable = |e: std::io::Error| Error::unreadable(path, format!("cannot be read ({e})"));
    let reader = ImageReader::open(path).and_then(ImageReader::with_guessed_format).map_err(unreadable)?;
    reader.into_decoder().map(drop).map_err(|e| not_an_image(path, &e))
}

fn decoder<'a>(bytes: &'a [u8], path: &Path) -> Result<impl ImageDecoder + 'a> {
    let reader = ImageReader::new(Cursor::new(bytes)).with_guessed_format();
    let reader = reader.map_err(|e| Error::unreadable(path, format!("cannot be read ({e})")))?;
    reader.into_decoder().map_err(|e| not_an_image(path, &e))
}

fn not_an_image(path: &Path, cause: &::image::ImageError) -> Error {
    Error::unreadable(path, format!("is not an image that can be read ({cause}); replace it, or remove it"))
}

fn decode_upright(bytes: &[u8], path: &Path) -> Result<DynamicImage> {
    let mut decoder = decoder(bytes, path)?;
    // A file without, or with broken, EXIF data is taken as it is.
    let orientation = decoder.orientation().ok();
    let mut image = DynamicImage::from_decoder(decoder).map_err(|e| not_an_image(path, &e))?;
    if let Some(orientation) = orientation {
        image.apply_orientation(orientation);
    }
    Ok(image)
}

fn on_white(image: DynamicImage) -> RgbImage {
    if !image.color().has_alpha() {
        return image.into_rgb8();
    }
    let rgba = image.into_rgba8();
    RgbImage::from_fn(rgba.width(), rgba.height(), |x, y| {
        let [red, green, blue, alpha] = rgba.get_pixel(x, y).0.map(u32::from);
        ::image::Rgb([red, green, blue].map(|c| ((c * alpha + 255 * (255 - alpha) + 127) / 255) as u8))
    })
}

/// Interleaved RGB of `target`, from the middle of `image` scaled to cover it.
fn cover(image: RgbImage, target: Size) -> Result<Vec<u8>, Box<dyn std::error::Error>> {
    let (width, height) = (target.width as u32, target.height as u32);
    let source = Image::from_vec_u8(image.width(), image.height(), image.into_raw(), PixelType::U8x3)?;
    let mut scaled = Image::new(width, height, PixelType::U8x3);
    // Cutting the middle with the target's aspect and scaling it is scaling to cover and cutting the middle.
    let options = ResizeOptions::new()
        .resize_alg(ResizeAlg::Convolution(FilterType::Lanczos3))
        .fit_into_destination(Some((0.5, 0.5)));
    Resizer::new().resize(&source, &mut scaled, &options)?;
    Ok(scaled.into_vec())
}

/// `[height, width, 3]` bytes → `[3, height, width]` in −1..1.
fn to_tensor(rgb: &[u8], size: Size) -> flowtune_engine::Result<Tensor> {
    let channel = |c: usize| rgb.iter().skip(c).step_by(3).map(|&byte| f32::from(byte) / 127.5 - 1.0);
    Tensor::from_vec((0..3).flat_map(channel).collect(), &[3, size.height, size.width])
}

/// Writes an image `[3, height, width]` of values in 0..1 (others are clamped) as an 8-bit PNG, atomically.
///
/// # Errors
/// `SHAPE_MISMATCH` for other shapes; `IO`.
pub fn save_png(image: &Tensor, path: &Path) -> Result<()> {
    let &[3, height, width] = image.shape() else {
        let reason = format!("an image to save must have shape [3, height, width], got {:?}", image.shape());
        return Err(Error::InvalidArgument(reason));
    };
    let values = image.to_f32_vec()?;
    let plane = height * width;
    let byte = |i: usize| (values[(i % 3) * plane + i / 3].clamp(0.0, 1.0) * 255.0).round() as u8;
    let pixels: Vec<u8> = (0..3 * plane).map(byte).collect();
    let invalid = || Error::InvalidArgument(format!("an image of {width}×{height} pixels cannot be saved"));
    let rgb = RgbImage::from_raw(width as u32, height as u32, pixels).ok_or_else(invalid)?;
    let mut png = Cursor::new(Vec::new());
    rgb.write_to(&mut png, ImageFormat::Png).map_err(|_| invalid())?;
    atomic::write_file(path, png.get_ref())
}

#[cfg(test)]
pub(crate) mod tests;
