use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::{Path, PathBuf};

use float8::F8E4M3;
use flowtune_engine::{DType, Tensor};
use tempfile::TempDir;

use super::{Weights, read_metadata, read_safetensors, replace_file, save_safetensors};

fn folder() -> TempDir {
    tempfile::tempdir().unwrap()
}

fn tensor(n: usize, start: f32) -> Tensor {
    Tensor::from_vec((0..n).map(|i| start + i as f32 * 0.5).collect(), &[n]).unwrap()
}

fn values(t: &Tensor) -> Vec<f32> {
    t.to_f32_vec().unwrap()
}

#[test]
fn floating_types_are_read_as_float32_and_names_can_be_scoped() {
    let dir = folder();
    let x = tensor(4, 1.0);
    let types = [DType::F32, DType::BF16, DType::F16, DType::F64];
    let saved: Vec<_> = types.iter().map(|&d| (format!("block.{}", d.name()), x.to_dtype(d).unwrap())).collect();
    save_safetensors(dir.path().join("model.safetensors"), &saved, None).unwrap();
    let weights = Weights::open(dir.path()).unwrap();
    let block = weights.scoped("block");
    for d in types {
        let got = block.get(d.name(), &[4]).unwrap();
        assert_eq!((got.dtype(), values(&got)), (DType::F32, values(&x)));
    }
    assert_eq!(block.names(), ["bfloat16", "float16", "float32", "float64"]);
    assert!(weights.contains("block.float16") && !weights.contains("float16"));
}

#[test]
fn read_safetensors_keeps_types() {
    let dir = folder();
    let file = dir.path().join("x.safetensors");
    let ids = Tensor::from_vec(vec![1i64, -2, 1 << 40], &[3]).unwrap();
    let scalar = Tensor::from_vec(vec![7i64], &[]).unwrap();
    let x = tensor(3, 0.0).to_dtype(DType::BF16).unwrap();
    let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    let saved = [("x".to_owned(), x), ("ids".to_owned(), ids), ("n".to_owned(), scalar)];
    save_safetensors(&file, &saved, Some(metadata.clone())).unwrap();
    let got = read_safetensors(&file).unwrap();
    assert_eq!(got["ids"].as_slice::<i64>().unwrap(), [1, -2, 1 << 40]);
    assert_eq!(got["n"].shape(), [0usize; 0]);
    assert_eq!((got["x"].dtype(), values(&got["x"])), (DType::BF16, vec![0.0, 0.5, 1.0]));
    assert_eq!(read_metadata(&file).unwrap(), metadata);
}

#[test]
fn the_same_tensors_make_the_same_bytes() {
    let dir = folder();
    let (a, b) = (dir.path().join("a.safetensors"), dir.path().join("b.safetensors"));
    let metadata = || Some((0..20).map(|i| (format!("key{i}"), "v".to_owned())).collect());
    let mut tensors: Vec<_> = (0..20).map(|i| (format!("t{i}"), tensor(i, i as f32))).collect();
    save_safetensors(&a, &tensors, metadata()).unwrap();
    tensors.reverse();
    save_safetensors(&b, &tensors, metadata()).unwrap();
    assert_eq!(fs::read(a).unwrap(), fs::read(b).unwrap());
}

#[test]
fn shards_are_found_through_their_index() {
    let dir = folder();
    let part = |i: usize| format!("model-{i:05}-of-00002.safetensors");
    for i in 1..3 {
        let tensors = [(format!("w{i}"), tensor(2, i as f32))];
        save_safetensors(dir.path().join(part(i)), &tensors, None).unwrap();
    }
    let index = dir.path().join("model.safetensors.index.json");
    let list =
        |extra: &str| format!(r#"{{"metadata":{{}},"weight_map":{{"w1":"{}","w2":"{}"{extra}}}}}"#, part(1), part(2));
    fs::write(&index, list("")).unwrap();
    let weights = Weights::open(dir.path()).unwrap();
    assert_eq!(values(&weights.get("w2", &[2]).unwrap()), [2.0, 2.5]);
    let refused = |extra: &str, culprit: &str| {
        fs::write(&index, list(extra)).unwrap();
        let error = Weights::open(dir.path()).unwrap_err();
        assert_eq!(error.code(), "CHECKPOINT_LAYOUT");
        assert!(error.to_string().contains(culprit), "{error}");
    };
    refused(&format!(r#","w3":"{}""#, part(2)), "w3");
    refused(r#","w3":"absent.safetensors""#, "absent.safetensors");
    refused(r#","w3":"../other.safetensors""#, "not in its folder");
}

#[test]
fn missing_and_misshapen_tensors_are_named_with_their_file() {
    let dir = folder();
    let file = dir.path().join("model.safetensors");
    save_safetensors(&file, &[("a.weight".to_owned(), tensor(4, 0.0))], None).unwrap();
    let weights = Weights::open(&file).unwrap().scoped("a");
    let missing = weights.get("bias", &[4]).unwrap_err();
    assert_eq!(missing.code(), "WEIGHTS_MISSING");
    assert!(missing.to_string().contains("a.bias") && missing.to_string().contains("model.safetensors"));
    let shape = weights.get("weight", &[2, 2]).unwrap_err();
    assert_eq!(shape.code(), "SHAPE_MISMATCH");
    assert!(shape.to_string().contains("a.weight") && shape.to_string().contains("[2, 2]"));
    assert!(weights.get_optional("bias", &[4]).unwrap().is_none());
}

#[test]
fn a_file_cut_anywhere_is_refused() {
    let dir = folder();
    let file = dir.path().join("model.safetensors");
    save_safetensors(&file, &[("w".to_owned(), tensor(8, 0.0))], None).unwrap();
    let whole = fs::read(&file).unwrap();
    for len in 0..whole.len() {
        fs::write(&file, &whole[..len]).unwrap();
        let error = Weights::open(dir.path()).unwrap_err();
        assert_eq!(error.code(), "CHECKPOINT_LAYOUT", "{len} of {} bytes", whole.len());
        assert!(error.to_string().contains("model.safetensors"));
    }
}

#[test]
fn a_file_cut_after_opening_is_an_error_not_a_signal() {
    let dir = folder();
    let file = dir.path().join("model.safetensors");
    save_safetensors(&file, &[("w".to_owned(), tensor(1 << 16, 0.0))], None).unwrap();
    let weights = Weights::open(&file).unwrap();
    fs::OpenOptions::new().write(true).open(&file).unwrap().set_len(100).unwrap();
    assert_eq!(weights.get("w", &[1 << 16]).unwrap_err().code(), "CHECKPOINT_LAYOUT");
}

#[test]
fn a_failed_write_leaves_the_old_file_and_nothing_else() {
    let dir = folder();
    let file = dir.path().join("x.txt");
    replace_file(&file, |out| std::io::Write::write_all(out, b"old")).unwrap();
    let full = std::io::Error::from(std::io::ErrorKind::StorageFull);
    let error = replace_file(&file, |_| Err(full)).unwrap_err();
    assert_eq!(error.code(), "IO");
    assert!(error.to_string().contains("x.txt"));
    assert_eq!(fs::read(&file).unwrap(), b"old");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    assert_eq!(replace_file(dir.path().join("no/x"), |_| Ok(())).unwrap_err().code(), "IO");
}

#[test]
fn an_empty_folder_says_what_was_expected() {
    let dir = folder();
    let error = Weights::open(dir.path()).unwrap_err();
    assert_eq!(error.code(), "CHECKPOINT_LAYOUT");
    assert!(error.to_string().contains("diffusion_pytorch_model.safetensors"));
    assert_eq!(Weights::open(dir.path().join("none")).unwrap_err().code(), "IO");
}

/// `tools/layout_fixtures.py` wrote these, and says what diffusers reads in them.
fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../__test__/fixtures/layouts").join(name)
}

/// Names, shapes and elements are exactly those that diffusers makes of the file.
fn assert_is_what_diffusers_reads(weights: &Weights, key: &str) {
    use sha2::Digest;
    let expected: HashMap<String, BTreeMap<String, (Vec<usize>, String)>> =
        serde_json::from_slice(&fs::read(fixture("expected.json")).unwrap()).unwrap();
    let expected = &expected[key];
    assert!(weights.names().iter().eq(expected.keys()), "{:?}", weights.names());
    for (name, (shape, digest)) in expected {
        let values = values(&weights.get(name, shape).unwrap());
        let bytes: Vec<u8> = values.iter().flat_map(|x| x.to_le_bytes()).collect();
        let got: String = sha2::Sha256::digest(bytes).iter().take(8).map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(&got, digest, "{name}");
    }
}

#[test]
fn black_forest_labs_files_are_read_under_diffusers_names() {
    assert_is_what_diffusers_reads(&Weights::open(fixture("transformer-bfl.safetensors")).unwrap(), "transformer");
    assert_is_what_diffusers_reads(&Weights::open(fixture("vae-bfl.safetensors")).unwrap(), "vae");
    assert_is_what_diffusers_reads(&Weights::open(fixture("transformer-q8_0.gguf")).unwrap(), "transformer-q8_0");
}

#[test]
fn prefixes_of_other_programs_are_left_out() {
    let dir = folder();
    let tensors = read_safetensors(fixture("transformer-bfl.safetensors")).unwrap();
    for prefix in ["model.diffusion_model.", "diffusion_model.", "transformer."] {
        let file = dir.path().join("prefixed.safetensors");
        let mut saved: Vec<_> = tensors.iter().map(|(name, t)| (format!("{prefix}{name}"), t.clone())).collect();
        // A whole pipeline in one file has more.
        saved.push(("vae.decoder.conv_in.weight".to_owned(), tensor(3, 0.0)));
        save_safetensors(&file, &saved, None).unwrap();
        assert_is_what_diffusers_reads(&Weights::open(&file).unwrap(), "transformer");
    }
}

#[test]
fn scaled_8_bit_floats_are_multiplied_out() {
    let dir = folder();
    let source = Weights::open(fixture("transformer-bfl.safetensors")).unwrap();
    for (suffix, one_for_all) in [("weight_scale", true), ("scale_weight", true), ("weight_scale", false)] {
        let mut entries = Vec::new();
        let tensors = read_safetensors(fixture("transformer-bfl.safetensors")).unwrap();
        for (name, t) in &tensors {
            let Some(module) = name.strip_suffix(".weight") else {
                entries.push((name.clone(), "BF16", t.shape().to_vec(), bf16_bytes(t)));
                continue;
            };
            let values = values(t);
            let rows = if one_for_all { 1 } else { t.dim(0) };
            let row = values.len() / rows;
            let scales: Vec<f32> =
                values.chunks(row).map(|row| row.iter().fold(0f32, |m, x| m.max(x.abs())) / 448.0).collect();
            let rounded = values.iter().enumerate().map(|(i, x)| F8E4M3::from_f32(x / scales[i / row]).to_bits());
            entries.push((name.clone(), "F8_E4M3", t.shape().to_vec(), rounded.collect()));
            let shape = if one_for_all { vec![] } else { vec![rows, 1] };
            let scales = scales.iter().flat_map(|s| s.to_le_bytes()).collect();
            entries.push((format!("{module}.{suffix}"), "F32", shape, scales));
            entries.push((format!("{module}.input_scale"), "F32", vec![], 1f32.to_le_bytes().to_vec()));
        }
        let file = dir.path().join("fp8.safetensors");
        write_raw(&file, &entries);
        let weights = Weights::open(&file).unwrap();
        assert_eq!(weights.names(), source.names());
        for name in weights.names() {
            let shape = source.shape(&name).unwrap();
            let (want, got) =
                (values(&source.get(&name, &shape).unwrap()), values(&weights.get(&name, &shape).unwrap()));
            let largest = want.iter().fold(0f32, |m, x| m.max(x.abs()));
            // Half a unit in the last of three fraction bits, and the smallest of the format's numbers.
            for (want, got) in want.iter().zip(got) {
                assert!((want - got).abs() <= want.abs() / 16.0 + largest / 448.0 / 512.0, "{name}: {got} for {want}");
            }
        }
    }
}

fn bf16_bytes(t: &Tensor) -> Vec<u8> {
    t.as_slice::<half::bf16>().unwrap().iter().flat_map(|x| x.to_le_bytes()).collect()
}

/// A safetensors file of any types.
fn write_raw(file: &Path, entries: &[(String, &str, Vec<usize>, Vec<u8>)]) {
    let (mut header, mut data) = (serde_json::Map::new(), Vec::new());
    for (name, dtype, shape, bytes) in entries {
        let offsets = [data.len(), data.len() + bytes.len()];
        header.insert(name.clone(), serde_json::json!({"dtype": dtype, "shape": shape, "data_offsets": offsets}));
        data.extend(bytes);
    }
    let header = serde_json::to_vec(&header).unwrap();
    fs::write(file, [&(header.len() as u64).to_le_bytes()[..], &header, &data].concat()).unwrap();
}

#[test]
fn blocks_of_every_kind_are_read_as_ggufs_own_package_reads_them() {
    let blocks = Weights::open(fixture("blocks.gguf")).unwrap();
    let expected = read_safetensors(fixture("blocks.safetensors")).unwrap();
    assert_eq!(blocks.names().len(), 10);
    for (name, want) in expected {
        let (want, got) = (values(&want), values(&blocks.get(&name, &[3, 256]).unwrap()));
        let largest = want.iter().fold(0f32, |m, x| m.max(x.abs()));
        assert!(want.iter().zip(&got).all(|(w, g)| (w - g).abs() <= 1e-6 * largest), "{name}");
    }
}

#[test]
fn a_gguf_file_cut_anywhere_is_refused() {
    let dir = folder();
    let whole = fs::read(fixture("blocks.gguf")).unwrap();
    let file = dir.path().join("cut.gguf");
    // The last bytes only fill up to a multiple of 32.
    for len in (0..whole.len() - 32).step_by(7) {
        fs::write(&file, &whole[..len]).unwrap();
        assert_eq!(Weights::open(&file).unwrap_err().code(), "CHECKPOINT_LAYOUT", "{len} of {}", whole.len());
    }
}

#[test]
fn a_pickle_is_refused() {
    let dir = folder();
    let file = dir.path().join("model.ckpt");
    fs::write(&file, b"anything").unwrap();
    let error = Weights::open(&file).unwrap_err();
    assert!(error.to_string().contains("pickle"), "{error}");
}
