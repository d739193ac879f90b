//! Low-rank adapters on a transformer, in the PEFT layout that diffusers reads.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use flowtune_engine::{Param, Tensor};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};

use crate::error::{Result, io_error, layout_error};
use crate::linear::{Linear, Lora};
use crate::transformer::Flux2Transformer;
use crate::weights::{read_metadata, read_safetensors, save_safetensors};

/// File name that diffusers' `load_lora_weights(folder)` looks for.
pub const LORA_FILE: &str = "pytorch_lora_weights.safetensors";

/// Key of the JSON in the file's metadata from which diffusers builds its `LoraConfig`.
const METADATA_KEY: &str = "lora_adapter_metadata";

/// All linears of both block kinds but modulation and norms.
pub const DEFAULT_TARGETS: [&str; 12] = [
    "to_q",
    "to_k",
    "to_v",
    "to_out.0",
    "add_q_proj",
    "add_k_proj",
    "add_v_proj",
    "to_add_out",
    "linear_in",
    "linear_out",
    "to_qkv_mlp_proj",
    "single_transformer_blocks.*.attn.to_out",
];

/// Where adapters go and how large they are.
#[derive(Debug, Clone)]
pub struct LoraConfig {
    /// Inner width.
    pub rank: usize,
    /// The adapter is scaled by alpha / rank.
    pub alpha: f64,
    /// Module names or their last segments; `*` stands for one segment.
    pub targets: Vec<String>,
}

impl Default for LoraConfig {
    fn default() -> Self {
        Self { rank: 16, alpha: 16.0, targets: DEFAULT_TARGETS.map(String::from).to_vec() }
    }
}

impl LoraConfig {
    /// Names of the layers that get an adapter, in the model's order.
    ///
    /// # Errors
    /// `CHECKPOINT_LAYOUT` when a target that is no default selects no layer.
    pub fn selected<'a>(&self, model: &'a Flux2Transformer) -> Result<Vec<&'a str>> {
        check_targets(model, self)?;
        Ok(model.linears().into_iter().map(module_name).filter(|m| self.selects(m)).collect())
    }

    fn selects(&self, module: &str) -> bool {
        self.targets.iter().any(|target| matches_suffix(target, module))
    }
}

/// Whether the last segments of `module` are those of `target`.
fn matches_suffix(target: &str, module: &str) -> bool {
    let mut segments = module.rsplit('.');
    target.rsplit('.').all(|t| segments.next().is_some_and(|s| t == "*" || t == s))
}

/// Name of a linear layer: that of its weight without `.weight`.
fn module_name(linear: &Linear) -> &str {
    let name = linear.weight().name();
    name.strip_suffix(".weight").unwrap_or(name)
}

/// Puts fresh adapters on the selected layers and makes them the only trainable weights. A starts as PEFT's
/// (uniform in ±1/√in), from `seed` and the module's name; B starts at zero. Returns the weights in order.
///
/// # Errors
/// `CHECKPOINT_LAYOUT` when a target that is no default selects no layer.
pub fn add_lora(model: &Flux2Transformer, config: &LoraConfig, seed: u64) -> Result<Vec<Param>> {
    check_targets(model, config)?;
    attach(model, config, |module, inputs, outputs| {
        let bound = 1.0 / (inputs as f32).sqrt();
        let mut rng = ChaCha8Rng::seed_from_u64(seed ^ name_hash(module));
        let a = (0..config.rank * inputs).map(|_| rng.random_range(-bound..bound)).collect::<Vec<f32>>();
        let a = Tensor::from_vec(a, &[config.rank, inputs])?;
        Ok((a, Tensor::full(0f32, &[outputs, config.rank])))
    })
}

/// Puts the adapters of `tensors` (`<module>.lora_A.weight`, `<module>.lora_B.weight`) on the model, trainable.
/// Returns the weights in order.
///
/// # Errors
/// `CHECKPOINT_LAYOUT` when a tensor belongs to no layer, or does not fit it.
pub fn restore_lora(
    model: &Flux2Transformer,
    tensors: &HashMap<String, Tensor>,
    alpha: f64,
    origin: &Path,
) -> Result<Vec<Param>> {
    let modules: Vec<String> =
        tensors.keys().filter_map(|k| k.strip_suffix(".lora_A.weight")).map(String::from).collect();
    let rank = modules
        .first()
        .and_then(|m| tensors.get(&format!("{m}.lora_A.weight")))
        .map(|t| t.dim(0))
        .ok_or_else(|| layout_error(origin, "holds no `<module>.lora_A.weight`; it is not a LoRA of FLUX.2"))?;
    let known: Vec<&str> = model.linears().into_iter().map(module_name).collect();
    if let Some(unknown) = modules.iter().find(|m| !known.contains(&m.as_str())) {
        let problem = format!("{unknown} is no layer of this model; the LoRA belongs to another one");
        return Err(layout_error(origin, problem));
    }
    let config = LoraConfig { rank, alpha, targets: modules };
    attach(model, &config, |module, inputs, outputs| {
        let get = |matrix: &str, shape: [usize; 2]| {
            let name = format!("{module}.lora_{matrix}.weight");
            match tensors.get(&name) {
                Some(t) if t.shape() == shape => Ok(t.clone()),
                Some(t) => {
                    Err(layout_error(origin, format!("{name} must have shape {shape:?}, but has {:?}", t.shape())))
                }
                None => Err(layout_error(origin, format!("has no tensor {name}; write the LoRA again"))),
            }
        };
        Ok((get("A", [rank, inputs])?, get("B", [outputs, rank])?))
    })
}

/// Every target that was asked for is there. The defaults name the layers of both kinds of blocks, and a model may have
/// one kind alone.
fn check_targets(model: &Flux2Transformer, config: &LoraConfig) -> Result<()> {
    if config.targets == DEFAULT_TARGETS {
        return Ok(());
    }
    let linears = model.linears();
    for target in &config.targets {
        if !linears.iter().any(|l| matches_suffix(target, module_name(l))) {
            let problem = format!("lora.targets: {target} is no linear layer of this model");
            return Err(layout_error(Path::new("transformer"), problem));
        }
    }
    Ok(())
}

fn attach(
    model: &Flux2Transformer,
    config: &LoraConfig,
    mut init: impl FnMut(&str, usize, usize) -> Result<(Tensor, Tensor)>,
) -> Result<Vec<Param>> {
    model.params().iter().for_each(|p| p.set_trainable(false));
    let mut params = Vec::new();
    for linear in model.linears() {
        let module = module_name(linear);
        if !config.selects(module) {
            linear.set_lora(None);
            continue;
        }
        let shape = linear.weight().value().shape().to_vec();
        let (a, b) = init(module, shape[1], shape[0])?;
        let lora = Lora {
            a: Param::trainable(format!("{module}.lora_A.weight"), a),
            b: Param::trainable(format!("{module}.lora_B.weight"), b),
            scale: config.alpha / config.rank as f64,
        };
        params.extend([lora.a.clone(), lora.b.clone()]);
        linear.set_lora(Some(lora));
    }
    Ok(params)
}

/// The weights of the adapters that are on the model, in the model's order: A, then B of each layer.
pub fn lora_params(model: &Flux2Transformer) -> Vec<Param> {
    model.linears().into_iter().filter_map(Linear::lora).flat_map(|lora| [lora.a, lora.b]).collect()
}

/// Rank, alpha and layers of the adapters that are on the model; none without adapters.
pub fn lora_config(model: &Flux2Transformer) -> Option<LoraConfig> {
    let on: Vec<(&Linear, Lora)> = model.linears().into_iter().filter_map(|l| l.lora().map(|lora| (l, lora))).collect();
    let (_, first) = on.first()?;
    let rank = first.a.value().dim(0);
    let targets = on.iter().map(|(linear, _)| module_name(linear).to_owned()).collect();
    Some(LoraConfig { rank, alpha: first.scale * rank as f64, targets })
}

/// Takes all adapters off.
pub fn remove_lora(model: &Flux2Transformer) {
    model.linears().into_iter().for_each(|l| l.set_lora(None));
}

/// Writes `<folder>/pytorch_lora_weights.safetensors` with keys `transformer.<module>.lora_{A,B}.weight`, and
/// rank and alpha where diffusers looks for them. The folder is made if it is not there. Returns the file.
///
/// # Errors
/// `IO` naming the file.
pub fn save_lora(folder: &Path, params: &[Param], config: &LoraConfig) -> Result<PathBuf> {
    fs::create_dir_all(folder).map_err(io_error(folder))?;
    let tensors: Vec<(String, Tensor)> =
        params.iter().map(|p| (format!("transformer.{}", p.name()), p.value())).collect();
    let modules: Vec<&str> = params.iter().filter_map(|p| p.name().strip_suffix(".lora_A.weight")).collect();
    let adapter = json!({
        "transformer.r": config.rank,
        "transformer.lora_alpha": config.alpha,
        "transformer.target_modules": modules,
    });
    let metadata =
        HashMap::from([("format".to_owned(), "pt".to_owned()), (METADATA_KEY.to_owned(), adapter.to_string())]);
    let file = folder.join(LORA_FILE);
    save_safetensors(&file, &tensors, Some(metadata))?;
    Ok(file)
}

/// Reads what [`save_lora`] wrote, or another trainer's LoRA in the same layout, and puts it on the model.
/// Without metadata alpha is the rank, as in diffusers. `path` is the folder or the file.
///
/// # Errors
/// `CHECKPOINT_LAYOUT` naming the tensor that does not fit.
pub fn load_lora(model: &Flux2Transformer, path: &Path) -> Result<Vec<Param>> {
    let file = if path.is_dir() { path.join(LORA_FILE) } else { path.to_path_buf() };
    let mut tensors = HashMap::new();
    for (name, tensor) in read_safetensors(&file)? {
        let name = name.strip_prefix("transformer.").unwrap_or(&name).to_owned();
        tensors.insert(name, tensor.to_dtype(flowtune_engine::DType::F32)?);
    }
    let rank = tensors.iter().find(|(k, _)| k.ends_with("lora_A.weight")).map_or(0, |(_, t)| t.dim(0));
    let alpha = read_metadata(&file)?.get(METADATA_KEY).and_then(|text| alpha_of(text));
    restore_lora(model, &tensors, alpha.unwrap_or(rank as f64), &file)
}

fn alpha_of(metadata: &str) -> Option<f64> {
    let value: Value = serde_json::from_str(metadata).ok()?;
    value.get("transformer.lora_alpha")?.as_f64()
}

/// FNV-1a: a stable number of a name, so that an adapter's start does not depend on the order of layers.
fn name_hash(name: &str) -> u64 {
    name.bytes().fold(0xcbf2_9ce4_8422_2325, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::matches_suffix;

    #[test]
    fn targets_match_whole_segments_from_the_end() {
        assert!(matches_suffix("to_q", "transformer_blocks.0.attn.to_q"));
        assert!(matches_suffix("to_out.0", "transformer_blocks.0.attn.to_out.0"));
        assert!(!matches_suffix("to_q", "transformer_blocks.0.attn.add_to_q"));
        let single = "single_transformer_blocks.*.attn.to_out";
        assert!(matches_suffix(single, "single_transformer_blocks.12.attn.to_out"));
        assert!(!matches_suffix(single, "transformer_blocks.1.attn.to_out.0"));
    }
}
