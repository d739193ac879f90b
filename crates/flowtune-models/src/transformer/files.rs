//! A transformer from nothing, from a folder, and back into one.

use std::fs;
use std::path::{Path, PathBuf};

use flowtune_engine::{DType, Device, Tensor};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::json;

use super::{Flux2Config, Flux2Transformer, Offload};
use crate::error::{Result, io_error, layout_error};
use crate::folder::{ModelFolder, read_json};
use crate::precision::Precision;
use crate::weights::{Weights, replace_file, save_safetensors};

/// File names of a component, as diffusers has them.
const CONFIG_FILE: &str = "config.json";
const WEIGHTS_FILE: &str = "diffusion_pytorch_model.safetensors";

/// Name and shape of a weight.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WeightShape {
    /// Checkpoint name.
    pub name: String,
    /// Extents.
    pub shape: Vec<usize>,
}

impl Flux2Transformer {
    /// A model with random weights, all frozen: linear layers as PyTorch starts them (uniform in ±1/√in), norms at 1.
    ///
    /// # Errors
    /// `CHECKPOINT_LAYOUT` when the config contradicts itself.
    pub fn random(config: Flux2Config, seed: u64, precision: Precision) -> Result<Self> {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let model = Self::build(config, &mut |name, shape| {
            let &[outputs, inputs] = shape else {
                return Ok(Tensor::full(1f32, shape));
            };
            let bound = 1.0 / (inputs as f32).sqrt();
            let weight = (0..outputs * inputs).map(|_| rng.random_range(-bound..bound)).collect::<Vec<f32>>();
            Ok(Tensor::from_vec(weight, shape)?.to_dtype(precision.weight(name, shape))?)
        })?;
        Ok(Self { compute: Some(precision.compute()), ..model })
    }

    /// A model of this geometry without weights, for its names, and the name and shape of every weight in order. No
    /// memory is taken for weights, whatever the size of the model.
    ///
    /// # Errors
    /// `CHECKPOINT_LAYOUT` when the config contradicts itself.
    pub fn outline(config: Flux2Config) -> Result<(Self, Vec<WeightShape>)> {
        let mut weights = Vec::new();
        let model = Self::build(config, &mut |name, shape| {
            weights.push(WeightShape { name: name.to_owned(), shape: shape.to_vec() });
            Ok(Tensor::zeros(&[0], DType::F32))
        })?;
        Ok((model, weights))
    }

    /// The transformer of a model folder, or of a folder or file of its own in any layout that [`Weights::open`] knows, all
    /// frozen.
    ///
    /// # Errors
    /// `CHECKPOINT_LAYOUT`, `WEIGHTS_MISSING`, `SHAPE_MISMATCH` naming file and tensor; `IO`.
    pub fn open(path: &Path, precision: Precision) -> Result<Self> {
        if path.join("model_index.json").is_file() {
            return ModelFolder::open(path)?.transformer(precision);
        }
        let weights = Weights::open(path)?.on(&Device::preferred()?);
        let config = config_beside(path, || Flux2Config::of(&weights))?;
        Self::load_offloaded(config, &weights, precision, Offload::default())
    }

    /// Writes the base model's weights and their configuration into `folder`, which is made if it is not there, in
    /// diffusers layout. Returns the weights' file.
    ///
    /// # Errors
    /// `IO`.
    pub fn save(&self, folder: &Path, dtype: DType) -> Result<PathBuf> {
        fs::create_dir_all(folder).map_err(io_error(folder))?;
        let cast = |p: &flowtune_engine::Param| Ok((p.name().to_owned(), p.value().to_dtype(dtype)?));
        let tensors = self.params().iter().map(cast).collect::<Result<Vec<_>>>()?;
        let weights = folder.join(WEIGHTS_FILE);
        save_safetensors(&weights, &tensors, None)?;
        // Last: a folder with a configuration is a whole one.
        self.config().save(folder)?;
        Ok(weights)
    }
}

impl Flux2Config {
    /// Writes `config.json` into `folder` as diffusers reads it.
    ///
    /// # Errors
    /// `IO`.
    pub fn save(&self, folder: &Path) -> Result<()> {
        let file = folder.join(CONFIG_FILE);
        let mut value = json!(self);
        value["_class_name"] = "Flux2Transformer2DModel".into();
        let text = serde_json::to_vec_pretty(&value)
            .map_err(|e| layout_error(&file, format!("cannot be written as JSON ({e})")))?;
        replace_file(&file, |out| std::io::Write::write_all(out, &text))
    }
}

/// What the `config.json` beside weights says, or where there is none, their shapes.
fn config_beside(path: &Path, of_shapes: impl FnOnce() -> Result<Flux2Config>) -> Result<Flux2Config> {
    let file = path.join(CONFIG_FILE);
    if file.is_file() { read_json(&file) } else { of_shapes() }
}

impl ModelFolder {
    /// Weights of the transformer, not yet read: those of [`ModelFolder::with_transformer`], or the folder's own.
    ///
    /// # Errors
    /// As [`Weights::open`].
    pub fn transformer_weights(&self) -> Result<Weights> {
        Weights::open(self.transformer_path()?)
    }

    /// Geometry of the transformer.
    ///
    /// # Errors
    /// `CHECKPOINT_LAYOUT`, `IO`.
    pub fn transformer_config(&self) -> Result<Flux2Config> {
        // The weights are looked at only where nothing else says what they are: they may not be here yet.
        config_beside(&self.transformer_path()?, || self.transformer_weights().and_then(|w| Flux2Config::of(&w)))
    }

    /// The transformer, all frozen.
    ///
    /// # Errors
    /// `CHECKPOINT_LAYOUT`, `WEIGHTS_MISSING`, `SHAPE_MISMATCH` naming file and tensor; `DEVICE_UNAVAILABLE`.
    pub fn transformer(&self, precision: Precision) -> Result<Flux2Transformer> {
        let weights = self.transformer_weights()?.on(&self.device()?);
        Flux2Transformer::load_offloaded(self.transformer_config()?, &weights, precision, self.offload())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tiny() -> Flux2Config {
        Flux2Config {
            in_channels: 8,
            num_layers: 1,
            num_single_layers: 1,
            attention_head_dim: 8,
            num_attention_heads: 2,
            joint_attention_dim: 6,
            axes_dims_rope: vec![2; 4],
            guidance_embeds: false,
            ..Flux2Config::default()
        }
    }

    #[test]
    fn what_is_saved_is_opened() {
        let folder = tempfile::tempdir().unwrap();
        let model = Flux2Transformer::random(tiny(), 3, Precision::FLOAT32).unwrap();
        model.save(&folder.path().join("transformer"), DType::F32).unwrap();
        let back = Flux2Transformer::open(&folder.path().join("transformer"), Precision::FLOAT32).unwrap();
        assert_eq!(back.config().axes_dims_rope, model.config().axes_dims_rope);
        for (a, b) in model.params().iter().zip(back.params()) {
            assert_eq!((a.name(), a.value().to_f32_vec().unwrap()), (b.name(), b.value().to_f32_vec().unwrap()));
        }
    }

    #[test]
    fn random_weights_are_those_of_the_seed_and_of_pytorchs_size() {
        let values = |seed| {
            Flux2Transformer::random(tiny(), seed, Precision::FLOAT32).unwrap().params()[0]
                .value()
                .to_f32_vec()
                .unwrap()
        };
        assert_eq!(values(1), values(1));
        assert_ne!(values(1), values(2));
        let model = Flux2Transformer::random(tiny(), 1, Precision::FLOAT32).unwrap();
        for param in model.params() {
            let (value, shape) = (param.value().to_f32_vec().unwrap(), param.value().shape().to_vec());
            let largest = value.iter().fold(0f32, |m, x| m.max(x.abs()));
            match shape[..] {
                [_, inputs] => {
                    assert!(largest > 0.8 / (inputs as f32).sqrt() && largest <= 1.0 / (inputs as f32).sqrt())
                }
                _ => assert!(value.iter().all(|x| *x == 1.0), "{}", param.name()),
            }
        }
    }
}
