//! Low-rank adapters on a transformer, and their files.

mod file;
mod formats;

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use flowtune_engine::{Param, Tensor};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::error::{Result, io_error, layout_error};
use crate::linear::{Linear, Lora};
use crate::transformer::Flux2Transformer;
pub use file::{Adapter, adapters_of, lora_file_notes, read_adapters, write_adapters};
pub use formats::LoraFormat;

/// File name that diffusers' `load_lora_weights(folder)` looks for.
pub const LORA_FILE: &str = "pytorch_lora_weights.safetensors";

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
        Ok(model.linears().into_iter().map(Linear::name).filter(|m| self.selects(m)).collect())
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

/// Puts fresh adapters on the selected layers and makes them the only trainable weights. A starts as PEFT's
/// (uniform in ±1/√in), from `seed` and the module's name; B starts at zero. Returns the weights in order.
///
/// # Errors
/// `CHECKPOINT_LAYOUT` when a target that is no default selects no layer.
pub fn add_lora(model: &Flux2Transformer, config: &LoraConfig, seed: u64) -> Result<Vec<Param>> {
    check_targets(model, config)?;
    attach(model, |module, inputs, outputs| {
        if !config.selects(module) {
            return Ok(None);
        }
        let bound = 1.0 / (inputs as f32).sqrt();
        let mut rng = ChaCha8Rng::seed_from_u64(seed ^ name_hash(module));
        let a = (0..config.rank * inputs).map(|_| rng.random_range(-bound..bound)).collect::<Vec<f32>>();
        let a = Tensor::from_vec(a, &[config.rank, inputs])?;
        let b = Tensor::full(0f32, &[outputs, config.rank]);
        Ok(Some(Adapter { module: module.to_owned(), a, b, scale: config.alpha / config.rank as f64 }))
    })
}

/// Puts these adapters on the model, trainable, and takes others off. Returns the weights in the model's order.
///
/// # Errors
/// `CHECKPOINT_LAYOUT` naming `origin`, when an adapter belongs to no layer, or does not fit it.
pub fn set_adapters(model: &Flux2Transformer, adapters: Vec<Adapter>, origin: &Path) -> Result<Vec<Param>> {
    let mut by_module: HashMap<String, Adapter> = adapters.into_iter().map(|a| (a.module.clone(), a)).collect();
    let linears = model.linears();
    for linear in &linears {
        if let Some(adapter) = by_module.get(linear.name()) {
            adapter.check(linear.weight().value().shape(), origin)?;
        }
    }
    if let Some(unknown) = by_module.keys().find(|m| !linears.iter().any(|l| l.name() == m.as_str())) {
        let problem = format!("{unknown} is no layer of this model; the LoRA belongs to another one");
        return Err(layout_error(origin, problem));
    }
    attach(model, |module, _, _| Ok(by_module.remove(module)))
}

/// Every target that was asked for is there. The defaults name the layers of both kinds of blocks, and a model may have
/// one kind alone.
fn check_targets(model: &Flux2Transformer, config: &LoraConfig) -> Result<()> {
    if config.targets == DEFAULT_TARGETS {
        return Ok(());
    }
    let linears = model.linears();
    for target in &config.targets {
        if !linears.iter().any(|l| matches_suffix(target, l.name())) {
            let problem = format!("lora.targets: {target} is no linear layer of this model");
            return Err(layout_error(Path::new("transformer"), problem));
        }
    }
    Ok(())
}

/// Puts on each layer what `adapter` makes of its name, inputs and outputs, and freezes the base.
fn attach(
    model: &Flux2Transformer,
    mut adapter: impl FnMut(&str, usize, usize) -> Result<Option<Adapter>>,
) -> Result<Vec<Param>> {
    model.params().iter().for_each(|p| p.set_trainable(false));
    let (device, mut params) = (model.device(), Vec::new());
    for linear in model.linears() {
        let module = linear.name();
        let weight = linear.weight().value();
        let trainable = |matrix: &str, value: Tensor| -> Result<Param> {
            Ok(Param::trainable(format!("{module}.{matrix}.weight"), value.to_device(&device)?))
        };
        let lora = match adapter(module, weight.dim(1), weight.dim(0))? {
            None => None,
            Some(Adapter { a, b, scale, .. }) => {
                Some(Lora { a: trainable("lora_A", a)?, b: trainable("lora_B", b)?, scale })
            }
        };
        params.extend(lora.iter().flat_map(|lora| [lora.a.clone(), lora.b.clone()]));
        linear.set_lora(lora);
    }
    Ok(params)
}

/// The weights of the adapters that are on the model, in the model's order: A, then B of each layer.
pub fn lora_params(model: &Flux2Transformer) -> Vec<Param> {
    model.linears().into_iter().filter_map(Linear::lora).flat_map(|lora| [lora.a, lora.b]).collect()
}

/// The adapters that are on the model, in its order.
pub fn adapters(model: &Flux2Transformer) -> Vec<Adapter> {
    let adapter = |linear: &Linear| {
        let Lora { a, b, scale } = linear.lora()?;
        Some(Adapter { module: linear.name().to_owned(), a: a.value(), b: b.value(), scale })
    };
    model.linears().into_iter().filter_map(adapter).collect()
}

/// Takes all adapters off.
pub fn remove_lora(model: &Flux2Transformer) {
    model.linears().into_iter().for_each(|l| l.set_lora(None));
}

/// Writes the adapters that are on the model into `folder`, which is made if it is not there, as diffusers'
/// `load_lora_weights(folder)` reads them, with `notes` in the file's metadata. Returns the file.
///
/// # Errors
/// `IO` naming the file.
pub fn save_lora(model: &Flux2Transformer, folder: &Path, notes: &HashMap<String, String>) -> Result<PathBuf> {
    fs::create_dir_all(folder).map_err(io_error(folder))?;
    let file = folder.join(LORA_FILE);
    write_adapters(&file, &adapters(model), LoraFormat::Diffusers, notes)?;
    Ok(file)
}

/// Puts the adapters of a file on the model, trainable: one that [`save_lora`] wrote, or another program's in any format of
/// [`LoraFormat`]. `path` is the folder or the file. Returns the weights in the model's order.
///
/// # Errors
/// `CHECKPOINT_LAYOUT` naming the tensor that does not fit; `IO`.
pub fn load_lora(model: &Flux2Transformer, path: &Path) -> Result<Vec<Param>> {
    let file = lora_file(path);
    set_adapters(model, read_adapters(&file, &model.linear_names())?, &file)
}

/// The file of a LoRA, which may be named by its folder.
pub fn lora_file(path: &Path) -> PathBuf {
    if path.is_dir() { path.join(LORA_FILE) } else { path.to_path_buf() }
}

/// FNV-1a: a stable number of a name, so that an adapter's start does not depend on the order of layers.
fn name_hash(name: &str) -> u64 {
    name.bytes().fold(0xcbf2_9ce4_8422_2325, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests;
