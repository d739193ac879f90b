//! What makes a run smaller, cheapest first.

use serde::Serialize;

use super::inputs::{DataSize, Model};
use super::memory::{Rehearsal, rehearse};
use super::time::Rates;
use crate::error::Result;
use crate::recipe::{Mode, Recipe};
use flowtune_models::{ComputeDtype, Quantization};

/// A line of a recipe.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Setting {
    /// E.g. `model.quantization`.
    pub key: &'static str,
    /// E.g. `int8`.
    pub value: serde_json::Value,
}

/// A change of a recipe, and what it comes to.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Switch {
    /// What to write into the recipe.
    pub settings: Vec<Setting>,
    /// Peak of training with it, in bytes; encoding is before that.
    pub peak: usize,
    /// Whether that fits.
    pub fits: bool,
    /// Time of a sample's share of a step, as a multiple of that without the change.
    pub time: f64,
}

/// The forms of one change of a recipe, the mildest first; none where it would change nothing.
type Kind = fn(&Recipe) -> Vec<Recipe>;

/// Kinds of changes, in the order of what they cost: time alone; time, and other noise draws; exactness; what the model
/// learns from; what is learned.
const KINDS: [Kind; 6] = [recompute, smaller_batch, bfloat16, fewer_bits, lower_resolution, lora];

/// Tries changes of one recipe.
pub(super) struct Search<'a> {
    pub(super) model: &'a Model,
    pub(super) data: DataSize,
    pub(super) recipe: &'a Recipe,
    /// Bytes that the run may take.
    pub(super) limit: usize,
}

impl Search<'_> {
    /// Each kind of change by itself, in the mildest form that fits, or else the strongest; what saves nothing is left out.
    pub(super) fn singly(&self) -> Result<Vec<Switch>> {
        let before = self.rehearse(self.recipe)?.training_peak().peak;
        let mut switches = Vec::new();
        for kind in KINDS {
            let forms = self.forms(kind, self.recipe);
            let Some(strongest) = forms.last() else { continue };
            let fitting =
                forms.iter().map(|form| self.switch(form)).find(|switch| switch.as_ref().map_or(true, |s| s.fits));
            let switch = fitting.unwrap_or_else(|| self.switch(strongest))?;
            if switch.peak < before {
                switches.push(switch);
            }
        }
        Ok(switches)
    }

    /// The cheapest combination that fits: of the changes that it needs, the dearest is as cheap as can be.
    pub(super) fn cheapest(&self) -> Result<Option<Switch>> {
        for mask in 1..1usize << KINDS.len() {
            let chosen: Vec<_> = (0..KINDS.len()).filter(|i| mask >> i & 1 == 1).map(|i| KINDS[i]).collect();
            let strongest =
                chosen.iter().rev().try_fold(self.recipe.clone(), |recipe, kind| self.forms(*kind, &recipe).pop());
            let Some(strongest) = strongest else { continue };
            if self.switch(&strongest)?.fits {
                return self.milder(&chosen, self.recipe.clone());
            }
        }
        Ok(None)
    }

    /// Of a combination whose strongest forms fit, the mildest forms that do; the dearest change as mild as can be first.
    fn milder(&self, kinds: &[Kind], recipe: Recipe) -> Result<Option<Switch>> {
        let Some((last, others)) = kinds.split_last() else {
            let switch = self.switch(&recipe)?;
            return Ok(switch.fits.then_some(switch));
        };
        for form in self.forms(*last, &recipe) {
            // The others in their strongest forms must be able to make up for it.
            let strongest = others.iter().rev().try_fold(form.clone(), |recipe, kind| self.forms(*kind, &recipe).pop());
            let possible = strongest.map(|strongest| self.switch(&strongest)).transpose()?.is_some_and(|s| s.fits);
            if possible {
                return self.milder(others, form);
            }
        }
        Ok(None)
    }

    /// The forms of a kind of change, without budgets beyond what the run may take.
    fn forms(&self, kind: Kind, recipe: &Recipe) -> Vec<Recipe> {
        let sensible = |form: &Recipe| form.train.memory_budget.is_none_or(|budget| budget * 1e9 <= self.limit as f64);
        kind(recipe).into_iter().filter(sensible).collect()
    }

    fn rehearse(&self, recipe: &Recipe) -> Result<Rehearsal> {
        rehearse(self.model, self.data, false, recipe)
    }

    /// What `changed` comes to. A memory budget that hardly saves time is left out.
    fn switch(&self, changed: &Recipe) -> Result<Switch> {
        let switch = self.measured(changed)?;
        if changed.train.memory_budget == self.recipe.train.memory_budget {
            return Ok(switch);
        }
        let mut plain = changed.clone();
        plain.train.memory_budget = None;
        let plain = self.measured(&plain)?;
        Ok(if plain.fits && plain.time < WORTH * switch.time { plain } else { switch })
    }

    fn measured(&self, changed: &Recipe) -> Result<Switch> {
        let (before, after) = (self.rehearse(self.recipe)?, self.rehearse(changed)?);
        let of_sample = |run: &Rehearsal, recipe: &Recipe| {
            Rates::nominal(recipe).seconds(run.work.step) / recipe.samples_per_step() as f64
        };
        let peak = after.training_peak().peak;
        Ok(Switch {
            settings: settings(self.recipe, changed),
            peak,
            fits: peak <= self.limit,
            time: of_sample(&after, changed) / of_sample(&before, self.recipe),
        })
    }
}

/// How much longer a step without a memory budget takes for one to be worth its line.
const WORTH: f64 = 1.02;

/// The keys in which two recipes differ, among those that are changed here.
fn settings(before: &Recipe, after: &Recipe) -> Vec<Setting> {
    let keys = |recipe: &Recipe| {
        [
            ("train.activationCheckpointing", recipe.train.activation_checkpointing.into()),
            ("train.memoryBudget", recipe.train.memory_budget.into()),
            ("train.batchSize", recipe.train.batch_size.into()),
            ("train.gradientAccumulation", recipe.train.gradient_accumulation.into()),
            ("model.dtype", serde_json::json!(recipe.model.dtype)),
            ("model.quantization", serde_json::json!(recipe.model.quantization)),
            ("data.resolution", serde_json::json!(recipe.data.largest_resolution())),
            ("mode", serde_json::json!(recipe.mode)),
        ]
    };
    let pairs = keys(before).into_iter().zip(keys(after));
    pairs
        .filter(|(a, b): &((_, serde_json::Value), _)| a.1 != b.1)
        .map(|(_, (key, value))| Setting { key, value })
        .collect()
}

fn recompute(recipe: &Recipe) -> Vec<Recipe> {
    let train = &recipe.train;
    if train.activation_checkpointing && train.memory_budget.is_none() {
        return Vec::new();
    }
    let with = |budget: Option<f64>| {
        let mut changed = recipe.clone();
        changed.train.memory_budget = budget;
        changed.train.activation_checkpointing = true;
        changed
    };
    // Budgets in steps of a twentieth, then none at all.
    let from = train.memory_budget.unwrap_or(BUDGET_FROM);
    let budgets = std::iter::successors(Some(from * 0.95), |budget| Some(budget * 0.95));
    let rounded = budgets.map(|budget| (budget * 10.0).floor() / 10.0).take_while(|budget| *budget >= 0.5);
    let mut forms: Vec<Recipe> = rounded.map(|budget| with(Some(budget))).collect();
    forms.push(with(None));
    forms
}

/// Where budgets are tried from, in gigabytes.
const BUDGET_FROM: f64 = 200.0;

fn smaller_batch(recipe: &Recipe) -> Vec<Recipe> {
    let batch = recipe.train.batch_size;
    let divisors = (1..batch).rev().filter(|smaller| batch.is_multiple_of(*smaller));
    let with = |smaller: usize| {
        let mut changed = recipe.clone();
        changed.train.batch_size = smaller;
        changed.train.gradient_accumulation *= batch / smaller;
        changed
    };
    divisors.map(with).collect()
}

fn bfloat16(recipe: &Recipe) -> Vec<Recipe> {
    let mut changed = recipe.clone();
    changed.model.dtype = ComputeDtype::Bfloat16;
    one_if(recipe.model.dtype == ComputeDtype::Float32, changed)
}

fn fewer_bits(recipe: &Recipe) -> Vec<Recipe> {
    let smaller = match recipe.model.quantization {
        _ if recipe.mode != Mode::Lora => &[][..],
        Quantization::None => &[Quantization::Int8, Quantization::Nf4],
        Quantization::Int8 => &[Quantization::Nf4],
        Quantization::Nf4 => &[],
    };
    let with = |&quantization: &Quantization| {
        let mut changed = recipe.clone();
        changed.model.quantization = quantization;
        changed
    };
    smaller.iter().map(with).collect()
}

fn lower_resolution(recipe: &Recipe) -> Vec<Recipe> {
    let largest = recipe.data.largest_resolution() as f64;
    let sides = [0.75, 0.5, 0.375, 0.25].map(|share| (largest * share) as usize / 16 * 16);
    let with = |side: usize| {
        let mut changed = recipe.clone();
        changed.data.resolution = vec![side];
        changed
    };
    // Smaller images teach a model of this size nothing.
    sides.into_iter().filter(|side| *side >= 256).map(with).collect()
}

fn lora(recipe: &Recipe) -> Vec<Recipe> {
    let mut changed = recipe.clone();
    changed.mode = Mode::Lora;
    one_if(recipe.mode == Mode::Full, changed)
}

fn one_if(applies: bool, recipe: Recipe) -> Vec<Recipe> {
    if applies { vec![recipe] } else { Vec::new() }
}
