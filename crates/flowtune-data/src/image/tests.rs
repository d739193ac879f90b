use super::*;

/// A PNG of one colour.
pub(crate) fn png(width: u32, height: u32, rgba: [u8; 4]) -> Vec<u8> {
    encode(&::image::RgbaImage::from_pixel(width, height, ::image::Rgba(rgba)).into())
}

fn encode(image: &DynamicImage) -> Vec<u8> {
    let mut out = Cursor::new(Vec::new());
    image.write_to(&mut out, ImageFormat::Png).unwrap();
    out.into_inner()
}

fn decode(bytes: &[u8], width: usize, height: usize) -> Vec<f32> {
    decode_image(bytes, Path::new("x.png"), Size { width, height }).unwrap().to_f32_vec().unwrap()
}

#[test]
fn colours_and_transparency() {
    let red = decode(&png(5, 5, [255, 0, 0, 255]), 16, 16);
    assert!(red[..256].iter().all(|&x| x == 1.0) && red[256..].iter().all(|&x| x == -1.0));
    let clear = decode(&png(5, 5, [0, 0, 0, 0]), 16, 16);
    assert!(clear.iter().all(|&x| x == 1.0));
    let half = decode(&png(5, 5, [0, 0, 0, 128]), 16, 16);
    assert!(half.iter().all(|&x| (x - (127.0 / 127.5 - 1.0)).abs() < 1e-6));
}

#[test]
fn the_middle_is_cut_out() {
    // 48×16: thirds of red, green, blue. A square target keeps the green third.
    let thirds = RgbImage::from_fn(48, 16, |x, _| {
        let mut pixel = [0; 3];
        pixel[x as usize / 16] = 255;
        ::image::Rgb(pixel)
    });
    let bytes = encode(&thirds.into());
    let square = decode(&bytes, 16, 16);
    let mean = |c: usize| square[c * 256..][..256].iter().sum::<f32>() / 256.0;
    assert!(mean(0) < -0.95 && mean(1) > 0.95 && mean(2) < -0.95, "{} {} {}", mean(0), mean(1), mean(2));
    assert_eq!(decode(&bytes, 48, 16)[0], 1.0);
}

#[test]
fn images_are_turned_upright() {
    // A red pixel left of a blue one, as JPEG, with EXIF orientation 6: turn right by 90°.
    let image = RgbImage::from_fn(32, 16, |x, _| ::image::Rgb(if x < 16 { [255, 0, 0] } else { [0, 0, 255] }));
    let mut jpeg = Cursor::new(Vec::new());
    image.write_to(&mut jpeg, ImageFormat::Jpeg).unwrap();
    let jpeg = jpeg.into_inner();
    let tiff = b"Exif\0\0MM\0\x2a\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0";
    let length = (tiff.len() as u16 + 2).to_be_bytes();
    let turned = [&jpeg[..2], &[0xff, 0xe1], &length, tiff, &jpeg[2..]].concat();
    let path = Path::new("x.jpg");
    assert_eq!(image_size(&turned, path).unwrap(), Size { width: 16, height: 32 });
    let upright = decode(&turned, 16, 32);
    // Red on top, blue below.
    assert!(upright[0] > 0.9 && upright[31 * 16] < -0.9, "{} {}", upright[0], upright[31 * 16]);
    assert!(upright[2 * 512] < -0.9 && upright[2 * 512 + 31 * 16] > 0.9);
}

#[test]
fn damaged_images_are_named() {
    let whole = encode(&RgbImage::from_fn(64, 64, |x, y| ::image::Rgb([x as u8, y as u8, (x * y) as u8])).into());
    for bytes in [&b"text"[..], &whole[..whole.len() / 2]] {
        let error = decode_image(bytes, Path::new("dir/x.png"), Size { width: 16, height: 16 }).unwrap_err();
        assert_eq!(error.code(), "DATA_UNREADABLE");
        assert!(error.to_string().contains("dir/x.png"), "{error}");
    }
}

#[test]
fn a_png_comes_back() {
    let tmp = tempfile::tempdir().unwrap();
    let path = tmp.path().join("x.png");
    let values: Vec<f32> = (0..3 * 16 * 32).map(|i| (i % 256) as f32 / 255.0).collect();
    save_png(&Tensor::from_vec(values.clone(), &[3, 16, 32]).unwrap(), &path).unwrap();
    let back = load_image(&path, Size { width: 32, height: 16 }).unwrap().to_f32_vec().unwrap();
    for (a, b) in back.iter().zip(values) {
        assert!((a - (2.0 * b - 1.0)).abs() < 1e-5, "{a} {b}");
    }
    let flat = Tensor::full(0f32, &[16, 16]);
    assert!(save_png(&flat, &path).is_err());
}

#[test]
fn masks_are_the_light_of_each_latent_over_what_is_kept_of_the_image() {
    // 48×32, of which a square target keeps the middle 32×32. White: the left half of all, and there the upper half.
    let corner = ::image::GrayImage::from_fn(48, 32, |x, y| ::image::Luma([if x < 24 && y < 16 { 255 } else { 0 }]));
    let bytes = encode(&corner.into());
    let image = Size { width: 96, height: 64 };
    let mask = |bytes: &[u8], target| decode_mask(bytes, Path::new("m.png"), image, target);
    let square = mask(&bytes, Size { width: 64, height: 64 }).unwrap();
    assert_eq!(square.shape(), [1, 4, 4]);
    let row = [1.0, 1.0, 0.0, 0.0];
    assert_eq!(square.to_f32_vec().unwrap(), [row, row, [0.0; 4], [0.0; 4]].concat());
    // One latent for all of it: the quarter that is white.
    let one = mask(&bytes, Size { width: 16, height: 16 }).unwrap().to_f32_vec().unwrap();
    assert!((one[0] - 0.25).abs() < 0.01, "{one:?}");
    // Transparent is black.
    let clear = mask(&png(48, 32, [255, 255, 255, 51]), Size { width: 16, height: 16 }).unwrap();
    assert!((clear.to_f32_vec().unwrap()[0] - 0.2).abs() < 0.01);
    let size = Size { width: 16, height: 16 };
    for (bytes, told) in [(png(48, 32, [0, 0, 0, 255]), "black all over"), (png(48, 48, [255; 4]), "proportions")] {
        let error = mask(&bytes, size).unwrap_err();
        assert!(error.code() == "DATA_UNREADABLE" && error.to_string().contains(told), "{error}");
    }
}

#[test]
fn a_header_that_promises_too_much_is_refused_before_memory_is_taken() {
    // The width of a PNG, and the checksum of its header.
    let mut bytes = png(16, 16, [1, 2, 3, 255]);
    bytes[16..20].copy_from_slice(&2_000_000u32.to_be_bytes());
    bytes[20..24].copy_from_slice(&2_000_000u32.to_be_bytes());
    let error = decode_image(&bytes, Path::new("x.png"), Size { width: 16, height: 16 }).unwrap_err();
    assert_eq!(error.code(), "DATA_UNREADABLE", "{error}");
}

#[test]
fn photographs_look_as_pillow_sees_them() {
    // JPEG, CMYK, WebP, turned by EXIF, 16 bits, transparent: see tools/photo_fixtures.py.
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../__test__/fixtures/photos");
    let expected: serde_json::Value = serde_json::from_slice(&fs::read(folder.join("expected.json")).unwrap()).unwrap();
    for (name, expected) in expected.as_object().unwrap() {
        let path = folder.join(name);
        let bytes = fs::read(&path).unwrap();
        let picture = Picture::decode(&bytes, &path).unwrap();
        let size = [picture.pixels.width(), picture.pixels.height()];
        assert_eq!(serde_json::json!(size), expected["size"], "{name}");
        assert_eq!(image_size(&bytes, &path).unwrap(), Size { width: size[0] as usize, height: size[1] as usize });
        for channel in 0..3 {
            let sum: f64 = picture.pixels.pixels().map(|pixel| f64::from(pixel.0[channel])).sum();
            let (mean, theirs) = (sum / f64::from(size[0] * size[1]), expected["mean"][channel].as_f64().unwrap());
            assert!((mean - theirs).abs() < 1.5, "{name}, channel {channel}: {mean} and {theirs}");
        }
    }
}
