//! Files that somebody damaged, or made to do damage: an error, never a panic, and never more memory than the file is long.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use tempfile::TempDir;

use super::{Weights, locate, read_safetensors};
use crate::lora::read_adapters;
use crate::transformer::Flux2Config;

fn fixture(name: &str) -> Vec<u8> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../__test__/fixtures/layouts");
    fs::read(folder.join(name)).unwrap()
}

fn write(name: &str, bytes: &[u8]) -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join(name);
    fs::write(&file, bytes).unwrap();
    (folder, file)
}

/// Opens a file and reads all that it says it has.
fn read_all(name: &str, bytes: &[u8]) {
    let (_folder, file) = write(name, bytes);
    let Ok(weights) = Weights::open(&file) else {
        return;
    };
    for name in weights.names() {
        let Some(shape) = weights.shape(&name) else {
            continue;
        };
        let elements = shape.iter().try_fold(1usize, |n, &extent| n.checked_mul(extent));
        // At least a bit of the file for each element, whatever its type.
        assert!(elements.is_some_and(|n| n <= 8 * bytes.len()), "{name} {shape:?} in {} bytes", bytes.len());
        drop(weights.get(&name, &shape));
    }
    drop(Flux2Config::of(&weights));
    drop(read_adapters(&file, &["x_embedder", "transformer_blocks.0.attn.to_q"]));
}

/// `bytes` with some of its first `within` bytes set to others.
fn damaged(bytes: Vec<u8>, within: usize) -> impl Strategy<Value = Vec<u8>> {
    let change = (0..within.min(bytes.len()), any::<u8>());
    prop::collection::vec(change, 1..8).prop_map(move |changes| {
        let mut bytes = bytes.clone();
        changes.into_iter().for_each(|(at, byte)| bytes[at] = byte);
        bytes
    })
}

/// A header of any types, shapes and offsets, which may contradict each other.
fn header() -> impl Strategy<Value = Vec<u8>> {
    let types = prop::sample::select(vec!["F32", "BF16", "F8_E4M3", "F8_E5M2", "I64", "U8", "F4"]);
    let extent = prop_oneof![0..5u64, Just(u64::MAX), Just(1 << 62), Just(1 << 33)];
    let names = prop::sample::select(vec![
        "img_in.weight",
        "double_stream_modulation_img.lin.weight",
        "double_blocks.0.img_attn.qkv.weight",
        "double_blocks.0.img_attn.qkv.weight_scale",
        "final_layer.adaLN_modulation.1.weight",
        "encoder.down.0.block.0.conv1.weight",
        "encoder.mid.attn_1.q.weight",
        "decoder.up.9.block.0.conv1.weight",
        "transformer.x_embedder.lora_A.weight",
        "transformer.x_embedder.lora_B.weight",
        "x_embedder.alpha",
    ]);
    let entry = (types, prop::collection::vec(extent, 0..4), (0..64u64, 0..64u64));
    (prop::collection::hash_map(names, entry, 0..8), 0..64usize).prop_map(|(entries, data)| {
        let entries: HashMap<_, _> = entries
            .into_iter()
            .map(|(name, (dtype, shape, (start, end)))| {
                (name, serde_json::json!({ "dtype": dtype, "shape": shape, "data_offsets": [start, end] }))
            })
            .collect();
        let header = serde_json::to_vec(&entries).unwrap();
        [&(header.len() as u64).to_le_bytes()[..], &header, &vec![1; data]].concat()
    })
}

/// One tensor after the other without a gap, so that the header is a valid one, of small shapes that fit no layout.
fn valid_of_wrong_shapes() -> impl Strategy<Value = Vec<u8>> {
    let names = ["img_in", "double_stream_modulation_img.lin", "double_blocks.0.img_attn.qkv", "final_layer.linear"];
    let shape = prop::collection::vec(0..5usize, 0..4);
    prop::collection::vec((shape, prop::sample::select(vec![("F32", 4), ("F8_E4M3", 1)])), names.len()..=names.len())
        .prop_map(move |shapes| {
            let (mut header, mut end) = (serde_json::Map::new(), 0);
            for (name, (shape, (dtype, size))) in names.iter().zip(shapes) {
                let start = end;
                end += size * shape.iter().product::<usize>();
                let entry = serde_json::json!({ "dtype": dtype, "shape": shape, "data_offsets": [start, end] });
                header.insert(format!("{name}.weight"), entry);
                header.insert(
                    format!("{name}.weight_scale"),
                    serde_json::json!({ "dtype": "F32", "shape": [0], "data_offsets": [end, end] }),
                );
            }
            let header = serde_json::to_vec(&header).unwrap();
            [&(header.len() as u64).to_le_bytes()[..], &header, &vec![1; end]].concat()
        })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn damaged_safetensors(bytes in damaged(fixture("transformer-bfl.safetensors"), 6000)) {
        read_all("model.safetensors", &bytes);
    }

    #[test]
    fn damaged_gguf(bytes in damaged(fixture("blocks.gguf"), 700)) {
        read_all("model.gguf", &bytes);
    }

    #[test]
    fn any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        read_all("model.safetensors", &bytes);
        read_all("model.gguf", &[b"GGUF\x03\0\0\0", &bytes[..]].concat());
    }

    #[test]
    fn headers_that_contradict_themselves(bytes in header()) {
        read_all("model.safetensors", &bytes);
        let (_folder, file) = write("lora.safetensors", &bytes);
        drop(read_safetensors(&file));
    }

    #[test]
    fn tensors_that_fit_no_layout(bytes in valid_of_wrong_shapes()) {
        read_all("model.safetensors", &bytes);
    }

    #[test]
    fn an_index_names_nothing_outside_its_folder(name in "(\\.\\./|/|\\./|[a-z]/|[a-z.\\\\:]){1,6}", key in "[a-z.]{0,8}") {
        let index = serde_json::json!({ "weight_map": { key: name } });
        let (folder, file) = write("model.safetensors.index.json", &serde_json::to_vec(&index).unwrap());
        if let Ok((files, _)) = locate::shards(&file) {
            prop_assert!(files.iter().all(|f| f.starts_with(folder.path()) && !f.to_string_lossy().contains("..")));
        }
    }
}
