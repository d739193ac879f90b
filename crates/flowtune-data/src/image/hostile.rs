//! Images that somebody damaged, or made to do damage: an error that names the file, never a panic.

use proptest::prelude::*;

use super::*;

/// The photographs, one of each form of file.
fn photographs() -> Vec<(&'static str, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../__test__/fixtures/photos");
    let names = ["cameraman.png", "galaxies.png", "cat.jpg", "rocket.jpeg", "coffee.webp", "retina.avif"];
    names.map(|name| (name, fs::read(folder.join(name)).unwrap())).into()
}

/// Some bytes of a photograph set to others, most of them near its start, where its sizes are; it may be cut short.
fn damaged() -> impl Strategy<Value = (&'static str, Vec<u8>)> {
    let place = prop_oneof![2 => 0.0..0.05f64, 1 => 0.0..1.0f64];
    let changes = prop::collection::vec((place, any::<u8>()), 1..6);
    let cut = prop_oneof![2 => Just(1.0), 1 => 0.0..1.0f64];
    (prop::sample::select(photographs()), changes, cut).prop_map(|((name, mut bytes), changes, cut)| {
        let length = bytes.len() as f64;
        changes.into_iter().for_each(|(place, byte)| bytes[(place * length) as usize] = byte);
        bytes.truncate((cut * length) as usize);
        (name, bytes)
    })
}

/// Reads a file in every way that there is.
fn read_all(name: &str, bytes: &[u8]) {
    let (path, target) = (Path::new(name), Size { width: 32, height: 32 });
    let own = image_size(bytes, path);
    for result in [decode_image(bytes, path, target), decode_mask(bytes, path, target, target)] {
        match result {
            Ok(tensor) => assert!(tensor.to_f32_vec().unwrap().iter().all(|x| (-1.0..=1.0).contains(x))),
            Err(error) => assert!(error.code() == "DATA_UNREADABLE" && error.to_string().contains(name), "{error}"),
        }
    }
    assert!(own.is_ok() || decode_image(bytes, path, target).is_err(), "{name} was decoded without a size");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn damaged_photographs((name, bytes) in damaged()) {
        read_all(name, &bytes);
    }

    #[test]
    fn any_bytes(magic in prop::sample::select(vec![
        &b""[..], b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", b"\xff\xd8\xff\xe1", b"RIFF\xff\xff\xff\0WEBPVP8 ",
        b"\0\0\0\x14ftypavif\0\0\0\0avif\0\0\0\xffmeta",
    ]), bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        read_all("x.png", &[magic, &bytes].concat());
    }
}
