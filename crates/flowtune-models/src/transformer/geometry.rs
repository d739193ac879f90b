//! The geometry of a transformer whose file says nothing of it, from the shapes of its weights.

use std::path::Path;

use super::Flux2Config;
use crate::error::{Result, layout_error};
use crate::weights::Weights;

impl Flux2Config {
    /// The geometry of these weights; what shapes do not tell (rotary base, eps) is FLUX.2's.
    ///
    /// # Errors
    /// `CHECKPOINT_LAYOUT` when they are not a FLUX.2 transformer's, with a word on what they are.
    pub fn of(weights: &Weights) -> Result<Self> {
        let file = weights.origin();
        let matrix = |name: &str| match weights.shape(name).as_deref() {
            Some(&[outputs, inputs]) => Ok((outputs, inputs)),
            _ => Err(layout_error(Path::new(&file), foreign(weights))),
        };
        let (dim, in_channels) = matrix("x_embedder.weight")?;
        let (_, joint_attention_dim) = matrix("context_embedder.weight")?;
        let (_, timestep_guidance_channels) = matrix("time_guidance_embed.timestep_embedder.linear_1.weight")?;
        let (out_channels, _) = matrix("proj_out.weight")?;
        // A single block's output layer takes attention and feed-forward side by side.
        let (_, attention_and_mlp) = matrix("single_transformer_blocks.0.attn.to_out.weight")?;
        let head = weights.shape("single_transformer_blocks.0.attn.norm_q.weight").unwrap_or_default();
        let &[attention_head_dim] = &head[..] else {
            return Err(layout_error(Path::new(&file), foreign(weights)));
        };
        if attention_head_dim == 0 || dim % attention_head_dim != 0 || attention_and_mlp < dim {
            return Err(layout_error(
                Path::new(&file),
                "has weights whose shapes contradict each other; download it again",
            ));
        }
        Ok(Self {
            in_channels,
            out_channels: (out_channels != in_channels).then_some(out_channels),
            num_layers: blocks(weights, "transformer_blocks."),
            num_single_layers: blocks(weights, "single_transformer_blocks."),
            attention_head_dim,
            num_attention_heads: dim / attention_head_dim,
            joint_attention_dim,
            timestep_guidance_channels,
            mlp_ratio: (attention_and_mlp - dim) as f64 / dim as f64,
            axes_dims_rope: vec![attention_head_dim / 4; 4],
            guidance_embeds: weights.contains("time_guidance_embed.guidance_embedder.linear_1.weight"),
            ..Self::default()
        })
    }
}

/// How many blocks there are under `prefix`.
fn blocks(weights: &Weights, prefix: &str) -> usize {
    let number = |name: &String| name.strip_prefix(prefix)?.split('.').next()?.parse::<usize>().ok();
    weights.names().iter().filter_map(number).max().map_or(0, |last| last + 1)
}

/// What a file is that is no FLUX.2 transformer.
fn foreign(weights: &Weights) -> String {
    let names = weights.names();
    let has = |part: &str| names.iter().any(|name| name.contains(part));
    let what = if has("lora_") || has(".lokr_") || has(".hada_") {
        "is an adapter; name the model that it was trained on, and give this file where a LoRA is asked for"
    } else if has("img_mod.lin") || has("norm1_context.linear") {
        "is a FLUX.1 transformer, and flowtune trains FLUX.2; take one of FLUX.2-klein-base-4B, -9B or FLUX.2-dev"
    } else if has("decoder.mid_block") || has("decoder.mid.") {
        "is a VAE; the transformer is the largest file of a model"
    } else if has("layers.0.self_attn") || has("layers.0.mlp") {
        "is a text encoder; the transformer is a file or folder of its own"
    } else {
        "has no FLUX.2 transformer; give a file with `x_embedder` (diffusers) or `img_in` (Black Forest Labs, ComfyUI, \
         GGUF) among its weights"
    };
    what.to_owned()
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::path::PathBuf;

    use flowtune_engine::{DType, Tensor};

    use super::*;
    use crate::transformer::Flux2Transformer;
    use crate::{ModelFolder, Precision};

    fn layouts(name: &str) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../__test__/fixtures/layouts").join(name)
    }

    #[test]
    fn a_file_in_any_layout_is_a_transformer() {
        let models = ["transformer-bfl.safetensors", "transformer-q8_0.gguf"]
            .map(|name| Flux2Transformer::open(&layouts(name), Precision::FLOAT32).unwrap());
        for model in &models {
            let config = model.config();
            assert_eq!((config.num_layers, config.num_single_layers, config.dim()), (2, 1, 32));
            assert_eq!((config.num_attention_heads, config.attention_head_dim), (2, 16));
            assert_eq!((config.in_channels, config.prediction_channels(), config.joint_attention_dim), (32, 32, 64));
            assert_eq!((config.mlp_ratio, config.guidance_embeds), (3.0, true));
            assert_eq!(config.axes_dims_rope, [4; 4]);
        }
    }

    #[test]
    fn every_model_of_the_family_is_told_by_its_shapes() {
        let klein_4b = Flux2Config {
            num_layers: 5,
            num_single_layers: 20,
            num_attention_heads: 24,
            joint_attention_dim: 7680,
            guidance_embeds: false,
            ..Flux2Config::default()
        };
        let klein_9b = Flux2Config {
            num_layers: 8,
            num_single_layers: 24,
            num_attention_heads: 32,
            joint_attention_dim: 12_288,
            ..klein_4b.clone()
        };
        for (config, billions) in [(klein_4b, 3.88), (klein_9b, 9.08), (Flux2Config::default(), 32.2)] {
            let (_, shapes) = Flux2Transformer::outline(config.clone()).unwrap();
            let parameters = shapes.iter().map(|w| w.shape.iter().product::<usize>()).sum::<usize>();
            assert!((parameters as f64 / 1e9 - billions).abs() < 0.01 * billions, "{parameters}");
            // A header alone, with holes where the weights would be.
            let folder = tempfile::tempdir().unwrap();
            let file = folder.path().join("model.safetensors");
            crate::testing::write_hollow(&file, shapes.iter().map(|w| (w.name.as_str(), &w.shape[..]))).unwrap();
            let read = Flux2Config::of(&Weights::open(&file).unwrap()).unwrap();
            assert_eq!(serde_json::to_value(read).unwrap(), serde_json::to_value(config).unwrap());
        }
    }

    #[test]
    fn what_is_no_transformer_is_called_by_its_name() {
        let told = |name: &str| {
            let weights = HashMap::from([(name.to_owned(), Tensor::zeros(&[2, 2], DType::F32))]);
            Flux2Config::of(&Weights::from_tensors(weights)).unwrap_err().to_string()
        };
        assert!(told("transformer.single_transformer_blocks.0.attn.to_out.lora_A.weight").contains("adapter"));
        assert!(told("double_blocks.0.img_mod.lin.weight").contains("FLUX.1"));
        assert!(told("decoder.mid.attn_1.q.weight").contains("VAE"));
        assert!(told("model.layers.0.self_attn.q_proj.weight").contains("text encoder"));
        assert!(told("something.weight").contains("img_in"));
        let error = ModelFolder::open(layouts("transformer-bfl.safetensors")).unwrap_err();
        assert!(error.to_string().contains("--transformer"), "{error}");
    }
}
