//! Files of adapters.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use flowtune_engine::{DType, Tape, Tensor, Var};
use serde_json::{Value, json};

use super::formats::{LoraFormat, stems};
use crate::error::{Result, layout_error};
use crate::weights::layout::Part;
use crate::weights::{read_metadata, read_safetensors, save_safetensors};

/// Key of the JSON in the file's metadata from which diffusers builds its `LoraConfig`.
const METADATA_KEY: &str = "lora_adapter_metadata";
/// Key that every file of PyTorch's world has.
const FORMAT_KEY: &str = "format";

/// What a LoRA's file says of itself beside what its format needs.
///
/// # Errors
/// `CHECKPOINT_LAYOUT`, `IO`.
pub fn lora_file_notes(file: &Path) -> Result<HashMap<String, String>> {
    let mut notes = read_metadata(file)?;
    notes.retain(|key, _| key != METADATA_KEY && key != FORMAT_KEY);
    Ok(notes)
}

/// The adapter of one layer: y += scale · x·Aᵀ·Bᵀ.
#[derive(Debug, Clone)]
pub struct Adapter {
    /// diffusers' name of the layer.
    pub module: String,
    /// `[rank, in]`, float32.
    pub a: Tensor,
    /// `[out, rank]`, float32.
    pub b: Tensor,
    /// alpha / rank.
    pub scale: f64,
}

impl Adapter {
    /// Inner width.
    pub fn rank(&self) -> usize {
        self.a.dim(0)
    }

    /// What the scale is of the rank.
    pub fn alpha(&self) -> f64 {
        self.scale * self.rank() as f64
    }

    /// What the adapter adds to its layer's weight: scale · B·A, `[out, in]`, float32.
    ///
    /// # Errors
    /// `SHAPE_MISMATCH` when A and B do not fit each other.
    pub fn delta(&self) -> Result<Tensor> {
        let tape = Tape::inference();
        let b = Var::constant(scaled(&self.b, self.scale)?);
        Ok(tape.matmul(&b, &Var::constant(self.a.clone()))?.into_tensor())
    }

    /// That A and B fit each other and a weight `[out, in]`.
    ///
    /// # Errors
    /// `CHECKPOINT_LAYOUT` naming `origin` and the tensor.
    pub fn check(&self, weight: &[usize], origin: &Path) -> Result<()> {
        let rank = self.rank();
        for (matrix, tensor, shape) in [("A", &self.a, [rank, weight[1]]), ("B", &self.b, [weight[0], rank])] {
            if tensor.shape() != shape {
                let name = format!("{}.lora_{matrix}.weight", self.module);
                let problem = format!("{name} must have shape {shape:?}, but has {:?}", tensor.shape());
                return Err(layout_error(origin, problem));
            }
        }
        Ok(())
    }
}

/// Writes adapters to a safetensors file in `format`, with `notes` in its metadata. Reading it gives the same product of A,
/// B and scale.
///
/// # Errors
/// `IO` naming the file.
pub fn write_adapters(
    file: &Path,
    adapters: &[Adapter],
    format: LoraFormat,
    notes: &HashMap<String, String>,
) -> Result<()> {
    let mut metadata = notes.clone();
    metadata.insert(FORMAT_KEY.to_owned(), "pt".to_owned());
    if format == LoraFormat::Diffusers {
        metadata.insert(METADATA_KEY.to_owned(), peft_config(adapters).to_string());
    }
    save_safetensors(file, &tensors(adapters, format)?, Some(metadata))
}

/// PEFT's `LoraConfig`, with patterns where adapters differ from the first.
fn peft_config(adapters: &[Adapter]) -> Value {
    let (rank, alpha) = adapters.first().map_or((0, 0.0), |a| (a.rank(), a.alpha()));
    let modules: Vec<&str> = adapters.iter().map(|a| a.module.as_str()).collect();
    let mut config = json!({
        "transformer.r": rank,
        "transformer.lora_alpha": alpha,
        "transformer.target_modules": modules,
    });
    let ranks: BTreeMap<_, _> =
        adapters.iter().filter(|a| a.rank() != rank).map(|a| (a.module.as_str(), a.rank())).collect();
    let alphas: BTreeMap<_, _> =
        adapters.iter().filter(|a| a.alpha() != alpha).map(|a| (a.module.as_str(), a.alpha())).collect();
    if !ranks.is_empty() {
        config["transformer.rank_pattern"] = json!(ranks);
    }
    if !alphas.is_empty() {
        config["transformer.alpha_pattern"] = json!(alphas);
    }
    config
}

/// The tensors of a file in `format`.
fn tensors(adapters: &[Adapter], format: LoraFormat) -> Result<Vec<(String, Tensor)>> {
    let mut layers: BTreeMap<String, Vec<(Part, &Adapter)>> = BTreeMap::new();
    for adapter in adapters {
        let (stem, part) = format.stem(&adapter.module);
        layers.entry(stem).or_default().push((part, adapter));
    }
    let mut out = Vec::new();
    for (stem, parts) in layers {
        let (a, mut b, scale) = joined(&parts)?;
        // Names of A and B; where alpha has no place in the file, it is in B.
        let [a_name, b_name] = format.matrices();
        match format {
            LoraFormat::Diffusers => {}
            LoraFormat::Comfyui => b = scaled(&b, scale)?,
            LoraFormat::Kohya => {
                let alpha = Tensor::full((scale * a.dim(0) as f64) as f32, &[]);
                out.push((format!("{stem}.alpha"), alpha));
            }
        }
        out.extend([(format!("{stem}.{a_name}"), a), (format!("{stem}.{b_name}"), b)]);
    }
    Ok(out)
}

fn scaled(x: &Tensor, factor: f64) -> Result<Tensor> {
    let values = x.to_f32_vec()?.into_iter().map(|x| x * factor as f32).collect();
    Ok(Tensor::from_vec(values, x.shape())?)
}

/// A, B and scale of a layer of Black Forest Labs' from the adapters of its parts. Queries, keys and values side by side
/// have their As one below the other and their Bs along a diagonal, as other programs write and recognise it.
fn joined(parts: &[(Part, &Adapter)]) -> Result<(Tensor, Tensor, f64)> {
    match parts {
        [(Part::HalvesSwapped, only)] => Ok((only.a.clone(), swapped(&only.b)?, only.scale)),
        [(part, only)] if !matches!(part, Part::Third(_)) => Ok((only.a.clone(), only.b.clone(), only.scale)),
        _ => {
            let outputs = parts[0].1.b.dim(0);
            let rank: usize = parts.iter().map(|(_, adapter)| adapter.rank()).sum();
            let mut b = vec![0f32; 3 * outputs * rank];
            let mut first = 0;
            for (part, adapter) in parts {
                let third = if let Part::Third(third) = part { *third } else { 0 };
                // The scale is one for the whole layer.
                let values = scaled(&adapter.b, adapter.scale / parts[0].1.scale)?.to_f32_vec()?;
                for (row, values) in values.chunks_exact(adapter.rank()).enumerate() {
                    b[(third * outputs + row) * rank + first..][..values.len()].copy_from_slice(values);
                }
                first += adapter.rank();
            }
            let a = Tensor::cat_rows(&parts.iter().map(|(_, adapter)| adapter.a.clone()).collect::<Vec<_>>())?;
            Ok((a, Tensor::from_vec(b, &[3 * outputs, rank])?, parts[0].1.scale))
        }
    }
}

/// The second half of the rows before the first.
fn swapped(b: &Tensor) -> Result<Tensor> {
    let half = b.dim(0) / 2;
    Ok(Tensor::cat_rows(&[b.rows(half, b.dim(0) - half)?, b.rows(0, half)?])?)
}

/// Reads the adapters of a file in any [`LoraFormat`], for a model whose linear layers are `modules`.
///
/// # Errors
/// `CHECKPOINT_LAYOUT` when a tensor belongs to no layer, or the file holds another kind of adapter; `IO`.
pub fn read_adapters(file: &Path, modules: &[&str]) -> Result<Vec<Adapter>> {
    let metadata = read_metadata(file)?.get(METADATA_KEY).and_then(|text| serde_json::from_str::<Value>(text).ok());
    let alpha = |module: &str| {
        let config = metadata.as_ref()?;
        let own = config.get("transformer.alpha_pattern").and_then(|pattern| pattern.get(module));
        own.or_else(|| config.get("transformer.lora_alpha"))?.as_f64()
    };
    adapters_of(read_safetensors(file)?, modules, &alpha, file)
}

/// The adapters in `tensors`, which have the names of any [`LoraFormat`]. `alpha` is asked for what they do not say; without
/// an answer it is the rank.
///
/// # Errors
/// As [`read_adapters`].
pub fn adapters_of(
    mut tensors: HashMap<String, Tensor>,
    modules: &[&str],
    alpha: &dyn Fn(&str) -> Option<f64>,
    origin: &Path,
) -> Result<Vec<Adapter>> {
    refuse_others(&tensors, origin)?;
    let mut adapters = Vec::new();
    let mut used = Vec::new();
    for module in modules {
        for (stem, part) in stems(module) {
            let Some(found) = Found::of(&tensors, &stem)? else {
                continue;
            };
            used.extend(found.names.clone());
            let alpha = found.alpha.or_else(|| alpha(module));
            let (a, b) = found.part(part).ok_or_else(|| {
                layout_error(origin, format!("{stem} has A and B that do not fit each other; write the LoRA again"))
            })??;
            let scale = alpha.map_or(1.0, |alpha| alpha / found.a.dim(0) as f64);
            adapters.push(Adapter { module: (*module).to_owned(), a, b, scale });
            break;
        }
    }
    used.iter().for_each(|name| drop(tensors.remove(name)));
    let mut rest: Vec<&String> = tensors.keys().collect();
    rest.sort();
    match (rest.first(), adapters.is_empty()) {
        (None, true) => Err(layout_error(origin, "holds no adapters")),
        (None, false) => Ok(adapters),
        (Some(unknown), _) => {
            let problem = format!("{unknown} belongs to no layer of this model; the LoRA is of another one");
            Err(layout_error(origin, problem))
        }
    }
}

/// Adapters that are no LoRA would be taken for nothing.
fn refuse_others(tensors: &HashMap<String, Tensor>, origin: &Path) -> Result<()> {
    const OTHERS: [(&str, &str); 4] =
        [("lokr_", "LoKr"), ("hada_", "LoHa"), ("dora_scale", "DoRA"), ("lora_magnitude", "DoRA")];
    for (mark, kind) in OTHERS {
        if let Some(name) = tensors.keys().find(|name| name.contains(mark)) {
            return Err(layout_error(origin, format!("is a {kind} ({name}), and flowtune reads LoRA only")));
        }
    }
    Ok(())
}

/// A, B and alpha of a layer, as a file has them.
struct Found {
    a: Tensor,
    b: Tensor,
    alpha: Option<f64>,
    names: Vec<String>,
}

impl Found {
    fn of(tensors: &HashMap<String, Tensor>, stem: &str) -> Result<Option<Self>> {
        for format in [LoraFormat::Diffusers, LoraFormat::Kohya] {
            let [a_name, b_name] = format.matrices().map(|matrix| format!("{stem}.{matrix}"));
            let (Some(a), Some(b)) = (tensors.get(&a_name), tensors.get(&b_name)) else {
                continue;
            };
            let alpha_name = format!("{stem}.alpha");
            let alpha = tensors.get(&alpha_name).map(|t| t.to_dtype(DType::F32)?.to_scalar()).transpose()?;
            let names = [a_name, b_name].into_iter().chain(alpha.map(|_| alpha_name)).collect();
            return Ok(Some(Self { a: a.to_dtype(DType::F32)?, b: b.to_dtype(DType::F32)?, alpha, names }));
        }
        Ok(None)
    }

    /// A and B of a part of the layer's outputs; `None` when they do not fit each other.
    fn part(&self, part: Part) -> Option<Result<(Tensor, Tensor)>> {
        let (&[rank, _], &[outputs, inner]) = (self.a.shape(), self.b.shape()) else {
            return None;
        };
        if rank != inner || (matches!(part, Part::Third(_)) && outputs % 3 != 0) {
            return None;
        }
        Some(match part {
            Part::Whole | Part::Pointwise => Ok((self.a.clone(), self.b.clone())),
            Part::HalvesSwapped => swapped(&self.b).map(|b| (self.a.clone(), b)),
            Part::Third(third) => self.third(third),
        })
    }

    /// Those of queries, keys or values. On a diagonal, each has rows of A of its own.
    fn third(&self, third: usize) -> Result<(Tensor, Tensor)> {
        let (outputs, rank) = (self.b.dim(0) / 3, self.a.dim(0));
        let b = self.b.to_f32_vec()?;
        let width = rank / 3;
        let on_diagonal = |row: usize, col: usize| row / outputs == col / width.max(1);
        let diagonal = rank % 3 == 0
            && b.chunks_exact(rank)
                .enumerate()
                .all(|(row, b)| b.iter().enumerate().all(|(col, &value)| value == 0.0 || on_diagonal(row, col)));
        if !diagonal {
            return Ok((self.a.clone(), self.b.rows(third * outputs, outputs)?));
        }
        let rows = b.chunks_exact(rank).skip(third * outputs).take(outputs);
        let b = rows.flat_map(|row| row[third * width..][..width].to_vec()).collect();
        Ok((self.a.rows(third * width, width)?, Tensor::from_vec(b, &[outputs, width])?))
    }
}
