//! From an image file to a tensor or a mask, and back to a PNG.

use std::fs;
use std::io::{self, BufRead, BufReader, Cursor, Seek};
use std::path::Path;

use ::image::{DynamicImage, ImageDecoder, ImageFormat, ImageReader, RgbImage};
use fast_image_resize::{FilterType, PixelType, ResizeAlg, ResizeOptions, Resizer, images::Image, images::ImageRef};
use flowtune_engine::Tensor;

use crate::atomic;
use crate::error::{Error, Result};
use crate::size::{MULTIPLE, Size};

mod avif;

/// Version of what [`decode_image`] does; part of the cache's keys.
pub(crate) const PREPROCESSING: u32 = 1;

/// The most pixels that an image may have: 16,384². A damaged header may promise any number.
const MAX_PIXELS: u64 = 1 << 28;

/// Reads an image file as [`decode_image`] does.
///
/// # Errors
/// `DATA_UNREADABLE` naming the file.
pub fn load_image(path: &Path, target: Size) -> Result<Tensor> {
    decode_image(&read(path)?, path, target)
}

/// Image `[3, height, width]`, f32 in −1..1, from the bytes of a PNG, JPEG, WebP or AVIF file: turned upright (EXIF),
/// transparency on white, scaled (Lanczos) until it covers `target`, the middle cut out. `path` is for the message.
///
/// # Errors
/// `DATA_UNREADABLE` naming the file.
pub fn decode_image(bytes: &[u8], path: &Path, target: Size) -> Result<Tensor> {
    Picture::decode(bytes, path)?.covering(target)
}

/// As [`decode_image`], but the whole image: scaled to `target` whatever its proportions.
///
/// # Errors
/// `DATA_UNREADABLE` naming the file.
pub fn decode_whole_image(bytes: &[u8], path: &Path, target: Size) -> Result<Tensor> {
    Picture::decode(bytes, path)?.resized(target, by(FilterType::Lanczos3))
}

/// An image in its own size.
pub(crate) struct Picture<'a> {
    pixels: RgbImage,
    path: &'a Path,
}

impl<'a> Picture<'a> {
    /// The image of a file's `bytes`, upright, on white.
    pub(crate) fn decode(bytes: &[u8], path: &'a Path) -> Result<Self> {
        Ok(Self { pixels: on_white(decode_upright(bytes, path)?), path })
    }

    /// `[3, height, width]` in −1..1, as of [`decode_image`].
    pub(crate) fn covering(&self, target: Size) -> Result<Tensor> {
        self.resized(target, covering(FilterType::Lanczos3))
    }

    fn resized(&self, target: Size, options: ResizeOptions) -> Result<Tensor> {
        let (pixels, size) = (self.pixels.as_raw(), self.pixels.dimensions());
        let scaled = resize(pixels, size, PixelType::U8x3, target, options);
        let scaled = scaled.map_err(|e| Error::unreadable(self.path, format!("cannot be resized ({e})")))?;
        Ok(to_tensor(&scaled, target)?)
    }
}

/// Mask `[1, h, w]` of latents, f32 in 0..1, from the bytes of an image file: its lightness, transparency being black,
/// over the part that [`decode_image`] keeps of an image of size `image`, averaged over the pixels of each latent.
///
/// # Errors
/// `DATA_UNREADABLE` naming the file when it has another aspect than the image, or nothing in it is white.
pub(crate) fn decode_mask(bytes: &[u8], path: &Path, image: Size, target: Size) -> Result<Tensor> {
    let mask = decode_upright(bytes, path)?.into_luma_alpha8();
    let size = Size { width: mask.width() as usize, height: mask.height() as usize };
    if (size.aspect() / image.aspect()).ln().abs() > SAME_ASPECT {
        let reason = format!(
            "is {}×{}, and its image {}×{}; a mask must have its image's proportions",
            size.width, size.height, image.width, image.height
        );
        return Err(Error::unreadable(path, reason));
    }
    let light = mask.pixels().map(|p| (u16::from(p.0[0]) * u16::from(p.0[1]) / 255) as u8).collect::<Vec<u8>>();
    let latents = Size { width: target.width / MULTIPLE, height: target.height / MULTIPLE };
    let scaled = resize(&light, mask.dimensions(), PixelType::U8, latents, covering(FilterType::Box));
    let scaled = scaled.map_err(|e| Error::unreadable(path, format!("cannot be resized ({e})")))?;
    if scaled.iter().all(|&light| light == 0) {
        return Err(Error::unreadable(path, "is black all over; paint white what is to be learned, or remove it"));
    }
    let values = scaled.into_iter().map(|light| f32::from(light) / 255.0).collect();
    Ok(Tensor::from_vec(values, &[1, latents.height, latents.width])?)
}

/// How far a mask's aspect may be from its image's: what rounding a side of 100 pixels makes of it.
const SAME_ASPECT: f64 = 0.01;

pub(crate) fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).map_err(|e| unread(path, &e))
}

/// Width and height after turning upright, from the header alone.
///
/// # Errors
/// `DATA_UNREADABLE` naming the file.
pub fn image_size(bytes: &[u8], path: &Path) -> Result<Size> {
    let mut decoder = decoder(Cursor::new(bytes), path)?;
    let (width, height) = decoder.dimensions();
    let turned = decoder.orientation().is_ok_and(|o| o.to_exif() >= 5);
    let (width, height) = if turned { (height, width) } else { (width, height) };
    Ok(Size { width: width as usize, height: height as usize })
}

/// Whether the file begins as an image; its pixels are not decoded.
pub(crate) fn check_image(path: &Path) -> Result<()> {
    let file = fs::File::open(path).map_err(|e| unread(path, &e))?;
    decoder(BufReader::new(file), path).map(drop)
}

/// Behind a pointer, so that the decoders of all formats are compiled for one type.
trait File: BufRead + Seek {}

impl<T: BufRead + Seek> File for T {}

fn decoder<'a>(file: impl File + 'a, path: &Path) -> Result<Box<dyn ImageDecoder + 'a>> {
    let mut file: Box<dyn File + 'a> = Box::new(file);
    if avif::is_avif(file.fill_buf().map_err(|e| unread(path, &e))?) {
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).map_err(|e| unread(path, &e))?;
        return Ok(Box::new(avif::AvifDecoder::new(&bytes).map_err(|e| not_an_image(path, &e))?));
    }
    let reader = ImageReader::new(file).with_guessed_format().map_err(|e| unread(path, &e))?;
    Ok(Box::new(reader.into_decoder().map_err(|e| not_an_image(path, &e))?))
}

fn unread(path: &Path, cause: &io::Error) -> Error {
    Error::unreadable(path, format!("cannot be read ({cause})"))
}

fn not_an_image(path: &Path, cause: &::image::ImageError) -> Error {
    Error::unreadable(path, format!("is not an image that can be read ({cause}); replace it, or remove it"))
}

fn decode_upright(bytes: &[u8], path: &Path) -> Result<DynamicImage> {
    let mut decoder = decoder(Cursor::new(bytes), path)?;
    let (width, height) = decoder.dimensions();
    if u64::from(width) * u64::from(height) > MAX_PIXELS {
        return Err(Error::unreadable(path, format!("is {width}×{height} pixels, too many; make it smaller")));
    }
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

/// Interleaved channels of `target`, from those of an image.
fn resize(
    pixels: &[u8],
    (width, height): (u32, u32),
    kind: PixelType,
    target: Size,
    options: ResizeOptions,
) -> Result<Vec<u8>, Box<dyn std::error::Error>> {
    let source = ImageRef::new(width, height, pixels, kind)?;
    let mut scaled = Image::new(target.width as u32, target.height as u32, kind);
    Resizer::new().resize(&source, &mut scaled, &options)?;
    Ok(scaled.into_vec())
}

/// Cutting the middle with the target's aspect and scaling it, which is scaling to cover and cutting the middle.
fn covering(filter: FilterType) -> ResizeOptions {
    by(filter).fit_into_destination(Some((0.5, 0.5)))
}

fn by(filter: FilterType) -> ResizeOptions {
    ResizeOptions::new().resize_alg(ResizeAlg::Convolution(filter))
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
mod hostile;
#[cfg(test)]
pub(crate) mod tests;
