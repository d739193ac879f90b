use flowtune_engine::DType;

use super::*;
use crate::image::tests::png;
use crate::{Cache, Dataset, DatasetOptions, Loader, Sizing, Source, encode_captions, encode_images};

/// A whole FLUX.2 klein pipeline of a few thousand weights, and what diffusers makes with it.
fn fixture() -> (ModelFolder, std::collections::HashMap<String, Tensor>) {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../__test__/fixtures/parity/pipeline");
    let expected = flowtune_models::read_safetensors(dir.join("expect.safetensors")).unwrap();
    (ModelFolder::open(dir.join("pipeline")).unwrap(), expected)
}

#[test]
fn captions_become_the_embeddings_of_diffusers() {
    let (folder, expected) = fixture();
    let expected = &expected["text_embeddings.0"];
    let encoder = TextCaptionEncoder::new(&folder, None).unwrap();
    let got = encoder.encode("a red heart on white paper").unwrap();
    assert_eq!(got.shape(), &expected.shape()[1..]);
    let (got, expected) = (got.to_f32_vec().unwrap(), expected.to_f32_vec().unwrap());
    let scale = expected.iter().fold(0f32, |m, x| m.max(x.abs()));
    assert!(got.iter().zip(&expected).all(|(a, b)| (a - b).abs() < 1e-4 * scale));
    assert_eq!(TextCaptionEncoder::new(&folder, Some(20)).unwrap().encode("a").unwrap().dim(0), 20);
}

#[test]
fn a_folder_of_images_becomes_batches_and_the_cache_spares_the_models() {
    let (folder, _) = fixture();
    let tmp = tempfile::tempdir().unwrap();
    for (name, colour) in [("1", [255, 0, 0, 255]), ("2", [0, 0, 255, 255])] {
        std::fs::write(tmp.path().join(format!("{name}.png")), png(70, 50, colour)).unwrap();
        std::fs::write(tmp.path().join(format!("{name}.txt")), format!("number {name}")).unwrap();
    }
    let dataset = Dataset::open(&[Source::new(tmp.path())], &DatasetOptions::default()).unwrap();
    let sizing = Sizing { resolutions: vec![64], buckets: true };
    let cache = Cache::open(&tmp.path().join("cache")).unwrap();
    for loads in [true, false] {
        let images = VaeEncoder::new(&folder);
        let captions = TextCaptionEncoder::new(&folder, Some(24)).unwrap();
        let texts = encode_captions(dataset.captions(), &captions, DType::F32, &cache, &|_| Ok(())).unwrap();
        let prepared = encode_images(&dataset, &texts, &sizing, &images, &cache, &|_| Ok(())).unwrap();
        assert_eq!((images.vae.get().is_some(), captions.encoder.get().is_some()), (loads, loads));
        let batch = Loader::new(prepared, 2, 0, 1 << 20).unwrap().batch(0).unwrap();
        assert_eq!(batch.image_latents.shape(), [2, 128, 3, 5]);
        assert_eq!(batch.text_embeddings.shape()[..2], [2, 24]);
        let latents = batch.image_latents.to_f32_vec().unwrap();
        assert!(latents.iter().all(|x| x.is_finite()) && latents[..1920] != latents[1920..]);
    }
}

#[test]
fn fingerprints_follow_the_content() {
    let tmp = tempfile::tempdir().unwrap();
    let of = |bytes: &[u8]| {
        std::fs::write(tmp.path().join("w.safetensors"), bytes).unwrap();
        fingerprint(&[tmp.path().to_path_buf()]).unwrap()
    };
    let mut bytes = vec![7u8; 200_000];
    let first = of(&bytes);
    assert_eq!(of(&bytes), first);
    for i in [0, 100_000, 199_999] {
        bytes[i] ^= 1;
        assert_ne!(of(&bytes), first, "byte {i}");
        bytes[i] ^= 1;
    }
    assert_ne!(of(&bytes[1..]), first);
}
