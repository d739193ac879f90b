use std::collections::{BTreeMap, HashMap, HashSet};

use flowtune_engine::DType;

use super::*;
use crate::Precision;
use crate::weights::{read_metadata, read_safetensors, save_safetensors};

#[test]
fn targets_match_whole_segments_from_the_end() {
    assert!(matches_suffix("to_q", "transformer_blocks.0.attn.to_q"));
    assert!(matches_suffix("to_out.0", "transformer_blocks.0.attn.to_out.0"));
    assert!(!matches_suffix("to_q", "transformer_blocks.0.attn.add_to_q"));
    let single = "single_transformer_blocks.*.attn.to_out";
    assert!(matches_suffix(single, "single_transformer_blocks.12.attn.to_out"));
    assert!(!matches_suffix(single, "transformer_blocks.1.attn.to_out.0"));
}

/// A transformer as Black Forest Labs lay it out, and the names of its tensors in that file.
fn model() -> (Flux2Transformer, HashSet<String>) {
    let file =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../__test__/fixtures/layouts/transformer-bfl.safetensors");
    let names = read_safetensors(&file).unwrap().into_keys().collect();
    (Flux2Transformer::open(&file, Precision::FLOAT32).unwrap(), names)
}

fn numbers(shape: &[usize], seed: usize) -> Tensor {
    let value = |i: usize| ((i * 37 + seed * 101) % 113) as f32 * 0.01 - 0.5;
    Tensor::from_vec((0..shape.iter().product()).map(value).collect(), shape).unwrap()
}

/// Adapters on every linear layer, none like another; alpha and rank as `of` says for the layer's number.
fn trained(model: &Flux2Transformer, of: impl Fn(usize) -> (usize, f64)) -> Vec<Adapter> {
    let adapter = |(i, linear): (usize, &Linear)| {
        let (rank, scale) = of(i);
        let weight = linear.weight().value().shape().to_vec();
        let (a, b) = (numbers(&[rank, weight[1]], i), numbers(&[weight[0], rank], i + 7));
        Adapter { module: linear.name().to_owned(), a, b, scale }
    };
    model.linears().into_iter().enumerate().map(adapter).collect()
}

/// scale · B·A, `[out, in]`.
fn delta(a: &Tensor, b: &Tensor, scale: f64) -> Vec<f64> {
    let (rank, inputs) = (a.dim(0), a.dim(1));
    let (a, b) = (a.to_f32_vec().unwrap(), b.to_f32_vec().unwrap());
    let mut out = vec![0.0; b.len() / rank * inputs];
    for (row, out) in out.chunks_exact_mut(inputs).enumerate() {
        for (r, a) in a.chunks_exact(inputs).enumerate() {
            let factor = scale * f64::from(b[row * rank + r]);
            out.iter_mut().zip(a).for_each(|(out, &a)| *out += factor * f64::from(a));
        }
    }
    out
}

fn assert_same(got: &[f64], want: &[f64], name: &str) {
    let largest = want.iter().fold(0f64, |m, x| m.max(x.abs()));
    assert!(got.len() == want.len() && largest > 0.0, "{name}");
    assert!(got.iter().zip(want).all(|(g, w)| (g - w).abs() <= 1e-6 * largest), "{name}");
}

fn by_module(adapters: &[Adapter]) -> BTreeMap<&str, Vec<f64>> {
    adapters.iter().map(|a| (a.module.as_str(), delta(&a.a, &a.b, a.scale))).collect()
}

#[test]
fn what_is_written_in_any_format_is_read_with_the_same_effect() {
    let (model, _) = model();
    let folder = tempfile::tempdir().unwrap();
    let ranks: [&dyn Fn(usize) -> (usize, f64); 2] = [&|_| (4, 0.5), &|i| (2 + i % 3, 0.25 * (1 + i % 2) as f64)];
    for (number, of) in ranks.into_iter().enumerate() {
        let adapters = trained(&model, of);
        for format in [LoraFormat::Diffusers, LoraFormat::Comfyui, LoraFormat::Kohya] {
            let file = folder.path().join("lora.safetensors");
            write_adapters(&file, &adapters, format, &HashMap::new()).unwrap();
            load_lora(&model, &file).unwrap();
            let back = super::adapters(&model);
            let (want, got) = (by_module(&adapters), by_module(&back));
            assert!(want.keys().eq(got.keys()));
            want.iter().for_each(|(module, want)| assert_same(&got[module], want, module));
            // Queries, keys and values of one rank come back with theirs.
            if number == 0 {
                assert!(back.iter().all(|a| a.rank() == 4), "{format:?}");
            }
        }
    }
}

#[test]
fn names_are_those_of_black_forest_labs_layers_and_so_are_the_products() {
    let (model, names) = model();
    let adapters = trained(&model, |_| (3, 2.0));
    let deltas = by_module(&adapters);
    let expected = |layer: &str| -> Vec<f64> {
        let own = |module: &String| deltas[module.as_str()].clone();
        let parts: Vec<String> = deltas
            .keys()
            .filter(|m| crate::weights::layout::bfl_module(m).is_some_and(|(bfl, _)| bfl == layer))
            .map(|m| (*m).to_owned())
            .collect();
        if layer.contains("adaLN") {
            let whole = own(&parts[0]);
            let (scale, shift) = whole.split_at(whole.len() / 2);
            return [shift, scale].concat();
        }
        // Names sort as k, q, v.
        let mut parts = parts;
        parts.sort_by_key(|m| {
            ["q", "k", "v"].iter().position(|l| m.ends_with(&format!("to_{l}")) || m.ends_with(&format!("_{l}_proj")))
        });
        parts.iter().flat_map(own).collect()
    };
    let folder = tempfile::tempdir().unwrap();
    for (format, stem) in [(LoraFormat::Comfyui, "diffusion_model."), (LoraFormat::Kohya, "lora_unet_")] {
        let file = folder.path().join("lora.safetensors");
        write_adapters(&file, &adapters, format, &HashMap::new()).unwrap();
        let tensors = read_safetensors(&file).unwrap();
        let [a_name, b_name] = format.matrices();
        let mut seen = 0;
        for layer in names.iter().filter_map(|name| name.strip_suffix(".weight")) {
            let flat = if format == LoraFormat::Kohya { layer.replace('.', "_") } else { layer.to_owned() };
            let stem = format!("{stem}{flat}");
            let (a, b) = (&tensors[&format!("{stem}.{a_name}")], &tensors[&format!("{stem}.{b_name}")]);
            let alpha = tensors.get(&format!("{stem}.alpha")).map(|t| t.to_scalar().unwrap());
            let scale = alpha.map_or(1.0, |alpha| alpha / a.dim(0) as f64);
            assert_same(&delta(a, b, scale), &expected(layer), layer);
            seen += if alpha.is_some() { 3 } else { 2 };
        }
        assert_eq!(seen, tensors.len(), "{format:?}: a tensor of no layer");
    }
}

#[test]
fn metadata_tell_diffusers_what_differs() {
    let (model, _) = model();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("lora.safetensors");
    let mut adapters = trained(&model, |_| (4, 0.5));
    write_adapters(&file, &adapters, LoraFormat::Diffusers, &HashMap::new()).unwrap();
    let config =
        |file| serde_json::from_str::<serde_json::Value>(&read_metadata(file).unwrap()["lora_adapter_metadata"]);
    let plain = config(&file).unwrap();
    assert_eq!((&plain["transformer.r"], &plain["transformer.lora_alpha"]), (&4.into(), &2.0.into()));
    assert!(plain.get("transformer.rank_pattern").is_none() && plain.get("transformer.alpha_pattern").is_none());
    adapters[1].a = numbers(&[2, adapters[1].a.dim(1)], 1);
    adapters[1].b = numbers(&[adapters[1].b.dim(0), 2], 1);
    write_adapters(&file, &adapters, LoraFormat::Diffusers, &HashMap::new()).unwrap();
    let patterns = config(&file).unwrap();
    assert_eq!(patterns["transformer.rank_pattern"][&adapters[1].module], 2);
    assert_eq!(patterns["transformer.alpha_pattern"][&adapters[1].module], 1.0);
}

#[test]
fn one_pair_for_queries_keys_and_values_is_shared() {
    let (model, _) = model();
    let stem = "diffusion_model.double_blocks.1.txt_attn.qkv";
    let (a, b) = (numbers(&[4, 32], 1), numbers(&[96, 4], 2));
    let tensors =
        HashMap::from([(format!("{stem}.lora_A.weight"), a.clone()), (format!("{stem}.lora_B.weight"), b.clone())]);
    let adapters = adapters_of(tensors, &model.linear_names(), &|_| None, Path::new("x")).unwrap();
    let whole = delta(&a, &b, 1.0);
    let modules: Vec<&str> = adapters.iter().map(|a| a.module.rsplit('.').next().unwrap()).collect();
    assert_eq!(modules, ["add_q_proj", "add_k_proj", "add_v_proj"]);
    for (adapter, want) in adapters.iter().zip(whole.chunks_exact(32 * 32)) {
        assert_same(&delta(&adapter.a, &adapter.b, adapter.scale), want, &adapter.module);
    }
}

#[test]
fn what_is_no_lora_of_the_model_is_refused() {
    let (model, _) = model();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("lora.safetensors");
    let told = |names: &[&str]| {
        let tensors: Vec<_> = names.iter().map(|n| ((*n).to_owned(), Tensor::zeros(&[2, 2], DType::F32))).collect();
        save_safetensors(&file, &tensors, None).unwrap();
        let error = load_lora(&model, &file).unwrap_err();
        assert_eq!(error.code(), "CHECKPOINT_LAYOUT");
        error.to_string()
    };
    assert!(told(&["lora_unet_double_blocks_0_img_mod_lin.lora_down.weight"]).contains("img_mod_lin"));
    assert!(told(&["diffusion_model.double_blocks.0.img_attn.proj.lokr_w1"]).contains("LoKr"));
    assert!(told(&["x_embedder.lora_A.weight", "x_embedder.lora_B.weight", "x_embedder.dora_scale"]).contains("DoRA"));
    assert!(
        told(&["transformer.x_embedder.lora_A.weight", "transformer.x_embedder.lora_B.weight"]).contains("[2, 32]")
    );
    assert!(told(&["transformer.x_embedder.lora_A.weight"]).contains("lora_A"));
}
