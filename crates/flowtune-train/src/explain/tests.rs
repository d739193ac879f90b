use std::path::{Path, PathBuf};

use flowtune_models::ModelFolder;
use flowtune_models::lora::{LoraConfig, add_lora};
use flowtune_models::transformer::{Flux2Config, Flux2Transformer};

use super::*;
use crate::recipe::resolve_recipe;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn recipe(change: &str) -> Recipe {
    let json = format!(
        r#"{{"model": {{"path": "models/flux2-tiny"}}, "data": {{"train": "examples/twemoji", "resolution": 64, "heldOutCount": 4}},
            "train": {{"steps": 10, "batchSize": 4, "gradientAccumulation": 2}}{change}}}"#
    );
    resolve_recipe(&json, &root()).unwrap()
}

#[test]
fn parameters_are_those_of_the_loaded_model() {
    let model = Flux2Transformer::open(&root().join("models/flux2-tiny"), flowtune_models::Precision::FLOAT32).unwrap();
    let count = |params: &[flowtune_engine::Param]| params.iter().map(|p| p.value().len() as u64).sum::<u64>();
    let all = count(model.params());
    let full = explain(&recipe(r#", "mode": "full""#)).unwrap();
    assert_eq!((full.trainable_parameters, full.total_parameters), (all, all));
    for (change, config) in [
        (r#", "lora": {"rank": 3}"#, LoraConfig { rank: 3, ..LoraConfig::default() }),
        (
            r#", "lora": {"targets": ["to_q"]}"#,
            LoraConfig { targets: vec!["to_q".to_owned()], ..LoraConfig::default() },
        ),
    ] {
        let explained = explain(&recipe(change)).unwrap();
        let params = add_lora(&model, &config, 0).unwrap();
        assert_eq!((explained.trainable_parameters, explained.total_parameters), (count(&params), all));
        let modules: usize = explained.modules.iter().map(|group| group.count).sum();
        assert_eq!(2 * modules, params.len());
    }
}

#[test]
fn the_largest_model_is_outlined_without_its_memory() {
    // FLUX.2 dev: 32 billion numbers, 129 GB in float32.
    let (_, weights) = Flux2Transformer::outline(Flux2Config::default()).unwrap();
    let total: usize = weights.iter().map(|weight| weight.shape.iter().product::<usize>()).sum();
    assert!((31_000_000_000..33_000_000_000).contains(&total), "{total}");
}

#[test]
fn klein_has_its_number_of_parameters() {
    // FLUX.2 klein 4B; d = 3072. A double block has 26·d² and four norms of heads, a single block 13·d² and two.
    let config = Flux2Config {
        num_layers: 5,
        num_single_layers: 20,
        num_attention_heads: 24,
        joint_attention_dim: 7680,
        guidance_embeds: false,
        ..Flux2Config::default()
    };
    let (d, head) = (config.dim(), config.attention_head_dim);
    let blocks = 5 * (26 * d * d + 4 * head) + 20 * (13 * d * d + 2 * head);
    // Timestep, three modulations, the last norm; then image, text, sinusoid and output.
    let rest = (1 + 6 + 6 + 3 + 2) * d * d + (128 + 7680 + 256 + 128) * d;
    let (_, weights) = Flux2Transformer::outline(config).unwrap();
    let total: usize = weights.iter().map(|weight| weight.shape.iter().product::<usize>()).sum();
    assert_eq!((total, total), (blocks + rest, 3_875_544_576));
}

#[test]
fn a_shift_that_does_not_apply_is_not_told() {
    for flow in [r#"{"timestepSampling": "beta"}"#, r#"{"useSigmaNoise": false}"#] {
        let explained = explain(&recipe(&format!(r#", "flowMatching": {flow}"#))).unwrap();
        assert_eq!(explained.buckets[0].shift, None, "{flow}");
        assert!(draw_explanation(&explained).unwrap().contains("σ at 64×64 (no shift)"), "{flow}");
    }
}

#[test]
fn blocks_are_taken_together() {
    let explained = explain(&recipe("")).unwrap();
    let group = explained.modules.iter().find(|m| m.name == "transformer_blocks.*.attn.to_out.0").unwrap();
    let config: Flux2Config =
        ModelFolder::open(root().join("models/flux2-tiny")).unwrap().transformer_config().unwrap();
    assert_eq!((group.count, &group.shape), (config.num_layers, &vec![config.dim(), config.dim()]));
    assert_eq!(group.parameters, (config.num_layers * 16 * 2 * config.dim()) as u64);
}

#[test]
fn noise_levels_are_those_of_training() {
    let explained = explain(&recipe(r#", "flowMatching": {"timestepSampling": "uniform", "flowShift": 1}"#)).unwrap();
    let [bucket] = &explained.buckets[..] else { panic!() };
    assert_eq!(
        (bucket.tokens, bucket.shift, explained.samples_per_step, explained.images),
        (16, Some(1.0), 8, Some(36))
    );
    // 5,000 draws a bin: five standard deviations are 7 %.
    assert!(bucket.density.iter().all(|d| (d - 1.0).abs() < 0.07), "{:?}", bucket.density);
    for (quantile, expected) in bucket.quantiles.into_iter().zip([0.1, 0.5, 0.9]) {
        assert!((quantile - expected).abs() < 0.006);
    }
    let shifted = explain(&recipe(r#", "flowMatching": {"timestepSampling": "uniform", "flowShift": 3}"#)).unwrap();
    // Mean of 3u/(1 + 2u): 3/2 − (3/4)·ln 3.
    assert!((shifted.buckets[0].mean - (1.5 - 0.75 * 3f64.ln())).abs() < 0.004);
}

#[test]
fn shifts_and_weights_follow_their_formulas() {
    let explained = explain(&recipe(r#", "flowMatching": {"lossWeighting": "linear"}"#)).unwrap();
    let at = |side: usize| explained.shifts.iter().find(|s| s.resolution == side).unwrap();
    assert_eq!((at(256).mu, at(1024).mu, at(1024).tokens), (Some(0.5), Some(1.15), 4096));
    assert_eq!(explained.shifts.iter().map(|s| s.resolution).collect::<Vec<_>>(), [64, 256, 512, 768, 1024, 1536]);
    let shift = explained.buckets[0].shift.unwrap();
    for [sigma, weight] in &explained.weights {
        assert!((weight - (1.0 + shift * sigma)).abs() < 1e-5);
    }
    assert_eq!(explained.guidance, None);
}

#[test]
fn the_picture_names_its_curves() {
    let svg = draw_explanation(&explain(&recipe("")).unwrap()).unwrap();
    assert!(svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>"));
    for text in ["σ at 64×64", "weight of the loss", "density"] {
        assert!(svg.contains(text), "{text}");
    }
}

#[test]
fn targets_that_select_nothing_are_named() {
    let error = explain(&recipe(r#", "lora": {"targets": ["to_x"]}"#)).unwrap_err();
    assert_eq!(error.code(), "RECIPE_INVALID");
    assert!(error.to_string().contains("to_x"), "{error}");
}
