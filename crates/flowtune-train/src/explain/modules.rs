//! Which modules a recipe trains, from the geometry alone.

use std::collections::HashMap;

use flowtune_models::lora::read_adapters;
use flowtune_models::transformer::{Flux2Config, Flux2Transformer};
use serde::Serialize;

use crate::error::Result;
use crate::export::given_lora;
use crate::recipe::{Mode, Recipe};
use crate::trainable::{lora_config, selected_modules};

/// Modules of the same name in several blocks.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ModuleGroup {
    /// Name, with `*` for the number of the block.
    pub name: String,
    /// How many there are.
    pub count: usize,
    /// Shape of the base weight, `[out, in]` for linear layers.
    pub shape: Vec<usize>,
    /// Numbers that train in all of them.
    pub parameters: u64,
}

/// What trains.
pub(super) struct Trained {
    /// Modules, in the model's order.
    pub(super) groups: Vec<ModuleGroup>,
    /// Numbers in the whole transformer.
    pub(super) total: u64,
}

pub(super) fn trained_modules(recipe: &Recipe, config: Flux2Config) -> Result<Trained> {
    let (model, weights) = Flux2Transformer::outline(config)?;
    let product = |shape: &[usize]| shape.iter().product::<usize>() as u64;
    let total = weights.iter().map(|weight| product(&weight.shape)).sum();
    let modules = weights.iter().map(|weight| (module_of(&weight.name), weight.shape.as_slice()));
    let trained: Vec<(&str, &[usize], u64)> = match recipe.mode {
        Mode::Full => modules.map(|(module, shape)| (module, shape, product(shape))).collect(),
        Mode::Lora => {
            // A is [rank, in], B is [out, rank].
            let ranks = ranks(recipe, &model)?;
            let adapter = |rank: &usize, shape: &[usize]| (rank * shape.iter().sum::<usize>()) as u64;
            modules.filter_map(|(m, shape)| Some((m, shape, adapter(ranks.get(m)?, shape)))).collect()
        }
    };
    Ok(Trained { groups: grouped(&trained), total })
}

/// Modules that get an adapter, and its rank.
pub(crate) fn ranks(recipe: &Recipe, model: &Flux2Transformer) -> Result<HashMap<String, usize>> {
    if let Some(lora) = &recipe.lora.from {
        let adapters = read_adapters(&given_lora(lora), &model.linear_names())?;
        return Ok(adapters.into_iter().map(|adapter| (adapter.module.clone(), adapter.rank())).collect());
    }
    let config = lora_config(recipe);
    Ok(selected_modules(model, &config)?.into_iter().map(|module| (module.to_owned(), config.rank)).collect())
}

fn module_of(weight: &str) -> &str {
    weight.strip_suffix(".weight").unwrap_or(weight)
}

/// Modules that differ in the number of their block alone become one entry, where the first of them stands.
fn grouped(modules: &[(&str, &[usize], u64)]) -> Vec<ModuleGroup> {
    let mut groups: Vec<ModuleGroup> = Vec::new();
    for (module, shape, parameters) in modules {
        let name = pattern(module);
        match groups.iter_mut().find(|group| group.name == name && group.shape == *shape) {
            Some(group) => {
                group.count += 1;
                group.parameters += parameters;
            }
            None => groups.push(ModuleGroup { name, count: 1, shape: shape.to_vec(), parameters: *parameters }),
        }
    }
    groups
}

/// `transformer_blocks.3.attn.to_out.0` → `transformer_blocks.*.attn.to_out.0`.
fn pattern(module: &str) -> String {
    let mut segments: Vec<&str> = module.split('.').collect();
    if let Some(second) = segments.get_mut(1).filter(|second| second.bytes().all(|b| b.is_ascii_digit())) {
        *second = "*";
    }
    segments.join(".")
}
