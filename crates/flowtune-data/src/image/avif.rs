//! AVIF for the `image` crate, whose own decoder needs a C library: avif-parse for the container, rav1d for the pixels.

use std::error::Error;
use std::io::Write as _;
use std::panic::{self, AssertUnwindSafe};

use ::image::error::{DecodingError, ImageFormatHint};
use ::image::metadata::Orientation;
use ::image::{ColorType, ImageDecoder, ImageError, ImageFormat, ImageResult};
use avif_parse::AvifData;
use re_rav1d::dav1d::pixel::{MatrixCoefficients, YUVRange};
use re_rav1d::dav1d::{self, Decoder, Picture, PixelLayout, PlanarImageComponent, Settings};
use yuv::{YuvGrayImage, YuvPlanarImage, YuvRange, YuvStandardMatrix};

/// The most pixels that are decoded, as of [`super::MAX_PIXELS`].
const MAX_PIXELS: u32 = super::MAX_PIXELS as u32;

/// Whether a file begins as an AVIF image or sequence does.
pub(super) fn is_avif(bytes: &[u8]) -> bool {
    matches!(bytes.get(4..12), Some(b"ftypavif" | b"ftypavis"))
}

/// An AVIF image of which the container has been read.
pub(super) struct AvifDecoder {
    data: AvifData,
    width: u32,
    height: u32,
    orientation: Orientation,
}

impl AvifDecoder {
    pub(super) fn new(bytes: &[u8]) -> ImageResult<Self> {
        let data = AvifData::from_reader(&mut &*bytes).map_err(broken)?;
        let header = data.primary_item_metadata().map_err(broken)?;
        let (width, height) = (header.max_frame_width.get(), header.max_frame_height.get());
        Ok(Self { data, width, height, orientation: orientation(bytes) })
    }
}

impl ImageDecoder for AvifDecoder {
    fn dimensions(&self) -> (u32, u32) {
        (self.width, self.height)
    }

    fn color_type(&self) -> ColorType {
        match self.data.alpha_item {
            Some(_) => ColorType::Rgba8,
            None => ColorType::Rgb8,
        }
    }

    fn orientation(&mut self) -> ImageResult<Orientation> {
        Ok(self.orientation)
    }

    fn read_image(self, mut out: &mut [u8]) -> ImageResult<()> {
        let size = (self.width, self.height);
        let rgb = Frame::decode(&self.data.primary_item, size)?.into_rgb()?;
        let Some(alpha) = &self.data.alpha_item else {
            return Ok(out.write_all(&rgb)?);
        };
        let alpha = Frame::decode(alpha, size)?.into_lightness()?;
        for ((out, rgb), alpha) in out.chunks_exact_mut(4).zip(rgb.chunks_exact(3)).zip(alpha) {
            let straight = |c: u8| match self.data.premultiplied_alpha && alpha > 0 {
                true => (u32::from(c) * 255 / u32::from(alpha)).min(255) as u8,
                false => c,
            };
            out.copy_from_slice(&[straight(rgb[0]), straight(rgb[1]), straight(rgb[2]), alpha]);
        }
        Ok(())
    }

    fn read_image_boxed(self: Box<Self>, out: &mut [u8]) -> ImageResult<()> {
        (*self).read_image(out)
    }
}

/// Planes of a decoded frame, their samples brought to eight bits.
struct Frame {
    size: (u32, u32),
    planes: Vec<Plane>,
    layout: PixelLayout,
    matrix: MatrixCoefficients,
    range: YuvRange,
}

struct Plane {
    samples: Vec<u8>,
    /// Samples of a row.
    stride: u32,
}

impl Frame {
    /// The first frame of an AV1 item, of the `size` that its header promised.
    fn decode(item: &[u8], size: (u32, u32)) -> ImageResult<Self> {
        // The decoder is a translation of C: what it has not foreseen it leaves to its bounds checks.
        let frame = panic::catch_unwind(AssertUnwindSafe(|| first_picture(item).map(|picture| Self::of(&picture))));
        let frame = frame.map_err(|_| broken("its AV1 data is broken"))?.map_err(broken)?;
        match frame.size == size {
            true => Ok(frame),
            false => Err(broken("its frame has another size than its header says")),
        }
    }

    fn of(picture: &Picture) -> Self {
        use PlanarImageComponent::{U, V, Y};
        let layout = picture.pixel_layout();
        let components = if layout == PixelLayout::I400 { &[Y][..] } else { &[Y, U, V] };
        Self {
            size: (picture.width(), picture.height()),
            planes: components.iter().map(|&component| Plane::of(picture, component)).collect(),
            layout,
            matrix: picture.matrix_coefficients(),
            range: match picture.color_range() {
                YUVRange::Full => YuvRange::Full,
                YUVRange::Limited => YuvRange::Limited,
            },
        }
    }

    /// Interleaved red, green and blue.
    fn into_rgb(self) -> ImageResult<Vec<u8>> {
        let (width, height) = self.size;
        let mut rgb = vec![0; width as usize * height as usize * 3];
        let (range, matrix, stride) = (self.range, self.matrix()?, width * 3);
        let [y, rest @ ..] = &self.planes[..] else { return Err(broken("it has no planes")) };
        let [u, v] = rest else {
            let grey = YuvGrayImage { y_plane: &y.samples, y_stride: y.stride, width, height };
            yuv::yuv400_to_rgb(&grey, &mut rgb, stride, range, matrix.unwrap_or(YuvStandardMatrix::Bt601))
                .map_err(broken)?;
            return Ok(rgb);
        };
        let image = YuvPlanarImage {
            y_plane: &y.samples,
            y_stride: y.stride,
            u_plane: &u.samples,
            u_stride: u.stride,
            v_plane: &v.samples,
            v_stride: v.stride,
            width,
            height,
        };
        let converted = match (self.layout, matrix) {
            (PixelLayout::I444, None) => yuv::gbr_to_rgb(&image, &mut rgb, stride, range),
            (_, None) => return Err(broken("its colours are stored in a way that is not supported")),
            (PixelLayout::I444, Some(matrix)) => yuv::yuv444_to_rgb(&image, &mut rgb, stride, range, matrix),
            (PixelLayout::I422, Some(matrix)) => yuv::yuv422_to_rgb_bilinear(&image, &mut rgb, stride, range, matrix),
            (_, Some(matrix)) => yuv::yuv420_to_rgb_bilinear(&image, &mut rgb, stride, range, matrix),
        };
        converted.map_err(broken)?;
        Ok(rgb)
    }

    /// The coefficients of the colours; none where the planes are green, blue and red themselves.
    fn matrix(&self) -> ImageResult<Option<YuvStandardMatrix>> {
        use MatrixCoefficients as M;
        Ok(Some(match self.matrix {
            M::Identity => return Ok(None),
            M::BT709 => YuvStandardMatrix::Bt709,
            // What libavif takes where nothing is said.
            M::Unspecified | M::BT470BG | M::ST170M => YuvStandardMatrix::Bt601,
            M::BT470M => YuvStandardMatrix::Fcc,
            M::ST240M => YuvStandardMatrix::Smpte240,
            M::BT2020NonConstantLuminance => YuvStandardMatrix::Bt2020,
            _ => return Err(broken("its colours are stored in a way that is not supported")),
        }))
    }

    /// The first plane in full range, as alpha is stored.
    fn into_lightness(self) -> ImageResult<Vec<u8>> {
        let width = self.size.0 as usize;
        let limited = |y: u8| ((u32::from(y).clamp(16, 235) - 16) * 255 / 219) as u8;
        let plane = self.planes.into_iter().next().ok_or_else(|| broken("it has no planes"))?;
        let rows = plane.samples.chunks(plane.stride.max(1) as usize).flat_map(|row| &row[..width]);
        Ok(match self.range {
            YuvRange::Full => rows.copied().collect(),
            YuvRange::Limited => rows.map(|&y| limited(y)).collect(),
        })
    }
}

impl Plane {
    fn of(picture: &Picture, component: PlanarImageComponent) -> Self {
        let (bytes, stride) = (picture.plane(component), picture.stride(component));
        let Some(shift) = picture.bits_per_component().map(|bits| bits.0 - 8).filter(|&shift| shift > 0) else {
            return Self { samples: bytes.to_vec(), stride };
        };
        let narrow = |pair: &[u8; 2]| ((u16::from_ne_bytes(*pair) + (1 << (shift - 1))) >> shift).min(255) as u8;
        Self { samples: bytes.as_chunks().0.iter().map(narrow).collect(), stride: stride / 2 }
    }
}

/// By one thread: several images are decoded at a time.
fn first_picture(item: &[u8]) -> Result<Picture, dav1d::Error> {
    let mut settings = Settings::new();
    settings.set_n_threads(1);
    settings.set_max_frame_delay(1);
    settings.set_frame_size_limit(MAX_PIXELS);
    let mut decoder = Decoder::with_settings(&settings)?;
    let mut sent = decoder.send_data(item.to_vec(), None, None, None);
    loop {
        match decoder.get_picture() {
            Err(e) if e.is_again() && sent.is_err_and(|e| e.is_again()) => sent = decoder.send_pending_data(),
            picture => return picture,
        }
    }
}

/// How the container's `irot` (quarter turns to the left) and `imir` (mirror) boxes, which avif-parse leaves out, turn the
/// image; after libavif, `avifImageIrotImirToExifOrientation`.
fn orientation(bytes: &[u8]) -> Orientation {
    let value = |name: &[u8; 4]| {
        let header = [&[0, 0, 0, 9], &name[..]].concat();
        let at = bytes.windows(header.len()).position(|window| window == header)?;
        bytes.get(at + header.len()).copied()
    };
    match (value(b"irot").map_or(0, |turns| turns & 3), value(b"imir").map(|axis| axis & 1)) {
        (0, None) => Orientation::NoTransforms,
        (1, None) => Orientation::Rotate270,
        (2, None) => Orientation::Rotate180,
        (_, None) => Orientation::Rotate90,
        (0, Some(0)) | (2, Some(1)) => Orientation::FlipVertical,
        (0, Some(_)) | (2, Some(_)) => Orientation::FlipHorizontal,
        (1, Some(0)) | (3, Some(1)) => Orientation::Rotate90FlipH,
        (_, Some(_)) => Orientation::Rotate270FlipH,
    }
}

fn broken(cause: impl Into<Box<dyn Error + Send + Sync>>) -> ImageError {
    ImageError::Decoding(DecodingError::new(ImageFormatHint::Exact(ImageFormat::Avif), cause))
}
