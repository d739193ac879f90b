//! Text encoders as their publishers lay them out: Qwen3 of FLUX.2 klein, Mistral Small 3 of FLUX.2 dev before and since
//! transformers 5.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use super::*;
use crate::folder::ModelFolder;
use crate::testing::write_hollow;

/// A layout under test.
struct Publisher {
    class: &'static str,
    /// `text_encoder/config.json`.
    config: Value,
    prefix: &'static str,
    /// What the encoder never looks at.
    unused: Vec<String>,
}

/// `Qwen3ForCausalLM`, as Qwen/Qwen3-4B has it. transformers 5 would write theta into `rope_parameters`.
fn qwen3(sizes: &Value) -> Publisher {
    let config = json!({
        "architectures": ["Qwen3ForCausalLM"], "attention_bias": false, "attention_dropout": 0.0, "bos_token_id": 151_643,
        "eos_token_id": 151_645, "hidden_act": "silu", "max_position_embeddings": 40960, "max_window_layers": 36,
        "model_type": "qwen3", "rms_norm_eps": 1e-6, "rope_scaling": null, "rope_theta": 1_000_000, "sliding_window": null,
        "tie_word_embeddings": true, "torch_dtype": "bfloat16", "transformers_version": "4.51.0", "use_sliding_window": false,
    });
    let unused = vec!["model.norm.weight".to_owned()];
    Publisher { class: "Flux2KleinPipeline", config: merged(config, sizes), prefix: "model.", unused }
}

/// `Mistral3ForConditionalGeneration`, as mistralai/Mistral-Small-3.2-24B-Instruct-2506 has it.
fn mistral3(prefix: &'static str, rope: &Value, sizes: &Value) -> Publisher {
    let text = json!({
        "attention_dropout": 0.0, "hidden_act": "silu", "initializer_range": 0.02, "max_position_embeddings": 131_072,
        "model_type": "mistral", "rms_norm_eps": 1e-5, "sliding_window": null, "use_cache": true,
    });
    let config = json!({
        "architectures": ["Mistral3ForConditionalGeneration"], "image_token_index": 10, "model_type": "mistral3",
        "multimodal_projector_bias": false, "projector_hidden_act": "gelu", "spatial_merge_size": 2,
        "text_config": merged(merged(text, rope), sizes), "torch_dtype": "bfloat16", "vision_feature_layer": -1,
        "vision_config": { "hidden_size": 1024, "model_type": "pixtral", "num_hidden_layers": 24, "rope_theta": 10_000.0 },
    });
    let vision = if prefix.starts_with("model.") { "model." } else { "" };
    let head = if prefix.starts_with("model.") { "lm_head.weight" } else { "language_model.lm_head.weight" };
    let mut unused = vec![head.to_owned(), format!("{prefix}norm.weight")];
    for name in [
        "vision_tower.patch_conv",
        "vision_tower.transformer.layers.0.attention.q_proj",
        "multi_modal_projector.linear_1",
    ] {
        unused.push(format!("{vision}{name}.weight"));
    }
    Publisher { class: "Flux2Pipeline", config, prefix, unused }
}

fn merged(mut config: Value, changes: &Value) -> Value {
    for (key, value) in changes.as_object().unwrap() {
        config[key] = value.clone();
    }
    config
}

fn sizes(
    vocabulary: usize,
    hidden: usize,
    inner: usize,
    layers: usize,
    [heads, kv_heads, head_dim]: [usize; 3],
) -> Value {
    json!({
        "vocab_size": vocabulary, "hidden_size": hidden, "intermediate_size": inner, "num_hidden_layers": layers,
        "num_attention_heads": heads, "num_key_value_heads": kv_heads, "head_dim": head_dim,
    })
}

impl Publisher {
    fn config(&self) -> TextConfig {
        TextConfig::from_json(&self.config, Path::new("config.json")).unwrap()
    }

    /// Names and shapes of the token embedding and of all layers.
    fn weights(&self) -> Vec<(String, Vec<usize>)> {
        let c = self.config();
        let (queries, keys) = (c.num_attention_heads * c.head_dim, c.num_key_value_heads * c.head_dim);
        let mut all = vec![("embed_tokens".to_owned(), vec![c.vocab_size, c.hidden_size])];
        for layer in 0..c.num_hidden_layers {
            let mut add = |name: &str, shape: &[usize]| all.push((format!("layers.{layer}.{name}"), shape.to_vec()));
            add("input_layernorm", &[c.hidden_size]);
            add("self_attn.q_proj", &[queries, c.hidden_size]);
            add("self_attn.k_proj", &[keys, c.hidden_size]);
            add("self_attn.v_proj", &[keys, c.hidden_size]);
            add("self_attn.o_proj", &[c.hidden_size, queries]);
            if c.family == TextFamily::Qwen3 {
                add("self_attn.q_norm", &[c.head_dim]);
                add("self_attn.k_norm", &[c.head_dim]);
            }
            add("post_attention_layernorm", &[c.hidden_size]);
            add("mlp.gate_proj", &[c.intermediate_size, c.hidden_size]);
            add("mlp.up_proj", &[c.intermediate_size, c.hidden_size]);
            add("mlp.down_proj", &[c.hidden_size, c.intermediate_size]);
        }
        all.into_iter().map(|(name, shape)| (format!("{}{name}.weight", self.prefix), shape)).collect()
    }

    /// A pipeline's folder: the text encoder in three shards with an index. What is not used, layers past `last` among it,
    /// is bytes, which are no weights to whoever reads them.
    fn write(&self, folder: &Path, last: usize) {
        let encoder = folder.join("text_encoder");
        fs::create_dir_all(&encoder).unwrap();
        fs::write(folder.join("model_index.json"), json!({ "_class_name": self.class }).to_string()).unwrap();
        fs::write(encoder.join("config.json"), self.config.to_string()).unwrap();
        let mut tensors: Vec<(String, Vec<usize>, bool)> =
            self.unused.iter().map(|name| (name.clone(), vec![3], false)).collect();
        tensors.extend(self.weights().into_iter().map(|(name, shape)| {
            let used = layer_of(&name).is_none_or(|layer| layer < last);
            (name, shape, used)
        }));
        let mut map = serde_json::Map::new();
        for (i, shard) in tensors.chunks(tensors.len().div_ceil(3)).enumerate() {
            let file = format!("model-{:05}-of-00003.safetensors", i + 1);
            map.extend(shard.iter().map(|(name, ..)| (name.clone(), json!(file))));
            fs::write(encoder.join(file), shard_of(shard)).unwrap();
        }
        let index = json!({ "metadata": { "total_size": 1 }, "weight_map": map });
        fs::write(encoder.join("model.safetensors.index.json"), index.to_string()).unwrap();
    }

    /// The same weights in memory, in float32, under bare names.
    fn in_memory(&self, last: usize) -> Weights {
        let used = |name: &str| layer_of(name).is_none_or(|layer| layer < last);
        let tensors = self.weights().into_iter().filter(|(name, _)| used(name)).map(|(name, shape)| {
            let values: Vec<f32> = values(&name, shape.iter().product()).into_iter().map(f32::from).collect();
            (name.strip_prefix(self.prefix).unwrap().to_owned(), Tensor::from_vec(values, &shape).unwrap())
        });
        Weights::from_tensors(tensors.collect::<HashMap<_, _>>())
    }
}

fn layer_of(name: &str) -> Option<usize> {
    name.split_once("layers.")?.1.split('.').next()?.parse().ok()
}

/// Weights of about the size that real ones have, other ones for each name.
fn values(name: &str, count: usize) -> Vec<half::bf16> {
    let mut state = name.bytes().fold(17u32, |state, byte| state.wrapping_mul(31).wrapping_add(u32::from(byte)));
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        half::bf16::from_f32((state >> 8) as f32 / (1 << 23) as f32 - 1.0)
    };
    (0..count).map(|_| next()).collect()
}

fn shard_of(tensors: &[(String, Vec<usize>, bool)]) -> Vec<u8> {
    let (mut header, mut data) = (serde_json::Map::new(), Vec::new());
    for (name, shape, used) in tensors {
        let (start, count) = (data.len(), shape.iter().product());
        match used {
            true => data.extend(values(name, count).iter().flat_map(|value| value.to_le_bytes())),
            false => data.extend(vec![0xff; count]),
        }
        let dtype = if *used { "BF16" } else { "U8" };
        header.insert(name.clone(), json!({ "dtype": dtype, "shape": shape, "data_offsets": [start, data.len()] }));
    }
    let header = serde_json::to_vec(&header).unwrap();
    [&(header.len() as u64).to_le_bytes()[..], &header, &data].concat()
}

#[test]
fn folders_of_every_publisher_are_read_as_far_as_flux2_looks() {
    let tiny = |layers| sizes(11, 16, 24, layers, [4, 2, 8]);
    let (old_rope, rope) =
        (json!({"rope_theta": 1e9}), json!({"rope_parameters": {"rope_theta": 1e9, "rope_type": "default"}}));
    for publisher in [
        qwen3(&tiny(36)),
        qwen3(&merged(
            tiny(36),
            &json!({"rope_parameters": {"rope_theta": 1e6, "rope_type": "default"}, "rope_theta": null}),
        )),
        mistral3("language_model.model.", &old_rope, &tiny(40)),
        mistral3("model.language_model.", &rope, &tiny(40)),
    ] {
        let config = publisher.config();
        assert_eq!(config.rope_theta, if config.family == TextFamily::Qwen3 { 1e6 } else { 1e9 });
        let taps = config.family.flux2_layers();
        let dir = tempfile::tempdir().unwrap();
        publisher.write(dir.path(), taps[2]);
        let folder = ModelFolder::open(dir.path()).unwrap();
        let encoder = folder.text_encoder().unwrap();
        assert_eq!((encoder.layers.len(), encoder.embed_tokens.dtype()), (taps[2], DType::BF16));
        assert_eq!(encoder.layers[3].down_proj.dtype(), DType::BF16);
        let ids = Tensor::from_vec(vec![3i64, 10, 7, 1, 0, 0], &[1, 6]).unwrap();
        let mask = Tensor::from_vec(vec![1i64, 1, 1, 1, 0, 0], &[1, 6]).unwrap();
        let got = encoder.text_embeddings(&ids, &mask).unwrap();
        // bfloat16 in memory gives what float32 gives, to the bit.
        let float32 = TextEncoder::load(config.clone(), &publisher.in_memory(taps[2]), &taps).unwrap();
        assert_eq!(float32.layers[3].down_proj.dtype(), DType::F32);
        let expected = float32.text_embeddings(&ids, &mask).unwrap();
        assert_eq!(got.as_slice::<f32>().unwrap(), expected.as_slice::<f32>().unwrap());
        assert!(expected.as_slice::<f32>().unwrap().iter().all(|x| x.is_finite() && *x != 0.0));

        // One layer further are the bytes.
        let weights = folder.weights("text_encoder").unwrap();
        let error = TextEncoder::load(config, &weights, &[taps[2] + 1]).err().unwrap();
        assert!(error.to_string().contains(&format!("layers.{}.", taps[2])), "{error}");
    }
}

#[test]
fn a_layer_of_qwen3_4b_is_what_its_configuration_says() {
    // Few tokens, to spare a gigabyte.
    let publisher = qwen3(&sizes(1000, 2560, 9728, 36, [32, 8, 128]));
    let dir = tempfile::tempdir().unwrap();
    let (file, weights) = (dir.path().join("model.safetensors"), publisher.weights());
    write_hollow(&file, weights.iter().map(|(name, shape)| (name.as_str(), &shape[..]))).unwrap();
    let config = publisher.config();
    let encoder = TextEncoder::load(config.clone(), &Weights::open(&file).unwrap(), &[0, 1]).unwrap();
    assert_eq!(encoder.embedding_dim(), 2 * 2560);
    let (ids, mask) = (Tensor::full(1i64, &[1, 2]), Tensor::full(1i64, &[1, 2]));
    let embeddings = encoder.text_embeddings(&ids, &mask).unwrap();
    assert_eq!(embeddings.to_f32_vec().unwrap(), vec![0.0; 4 * 2560]);
}
