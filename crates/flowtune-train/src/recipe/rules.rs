//! What the values of a recipe may be.

use serde_json::Value;

use flowtune_models::{Precision, Quantization};

use super::{DataRecipe, Recipe};
use crate::error::{Error, Result};

/// Largest integer that JavaScript holds exactly.
const MAX_SAFE_INTEGER: f64 = 9_007_199_254_740_991.0;

/// Largest count of anything.
const MAX_COUNT: f64 = u32::MAX as f64;

/// Range of a number.
struct Rule {
    key: &'static str,
    whole: bool,
    min: f64,
    max: f64,
    /// Whether `min` itself is out of range.
    above_min: bool,
    /// Whether `max` itself is out of range.
    below_max: bool,
    /// Whether a list of such numbers may be given.
    list: bool,
}

const fn count(key: &'static str) -> Rule {
    Rule { key, whole: true, min: 1.0, max: MAX_COUNT, above_min: false, below_max: false, list: false }
}

const fn share(key: &'static str) -> Rule {
    Rule { key, whole: false, min: 0.0, max: 1.0, above_min: false, below_max: false, list: false }
}

const fn real(key: &'static str) -> Rule {
    Rule {
        key,
        whole: false,
        min: f64::NEG_INFINITY,
        max: f64::INFINITY,
        above_min: false,
        below_max: false,
        list: false,
    }
}

const fn positive(key: &'static str) -> Rule {
    Rule { min: 0.0, above_min: true, ..real(key) }
}

const fn not_negative(key: &'static str) -> Rule {
    Rule { min: 0.0, ..real(key) }
}

const fn seed(key: &'static str) -> Rule {
    Rule { whole: true, min: 0.0, max: MAX_SAFE_INTEGER, ..real(key) }
}

/// Every number of a recipe. On the way to a key, lists stand for each of their elements.
const RULES: &[Rule] = &[
    positive("data.train.repeats"),
    positive("data.train.weight"),
    count("data.heldOutCount"),
    Rule { min: 16.0, max: 4096.0, list: true, ..count("data.resolution") },
    count("data.textTokens"),
    count("lora.rank"),
    positive("lora.alpha"),
    real("flowMatching.logitMean"),
    positive("flowMatching.logitStd"),
    positive("flowMatching.betaAlpha"),
    positive("flowMatching.betaBeta"),
    positive("flowMatching.flowShift"),
    share("flowMatching.sigmaMin"),
    share("flowMatching.sigmaMax"),
    share("flowMatching.mixUniformRatio"),
    not_negative("flowMatching.guidanceScale"),
    share("flowMatching.captionDropout"),
    positive("flowMatching.maxLoss"),
    positive("optimizer.lr"),
    Rule { below_max: true, ..share("optimizer.beta1") },
    Rule { below_max: true, ..share("optimizer.beta2") },
    not_negative("optimizer.eps"),
    not_negative("optimizer.weightDecay"),
    Rule { min: 0.0, ..count("lrSchedule.warmupSteps") },
    share("lrSchedule.minLrRatio"),
    count("train.steps"),
    count("train.batchSize"),
    count("train.gradientAccumulation"),
    not_negative("train.maxGradNorm"),
    seed("train.seed"),
    positive("train.memoryBudget"),
    count("checkpoint.everySteps"),
    count("checkpoint.keep"),
    count("validation.everySteps"),
    Rule { above_min: true, list: true, ..share("validation.sigmas") },
    count("validation.sampleSteps"),
    not_negative("validation.sampleGuidance"),
    seed("validation.sampleSeed"),
];

/// Checks the numbers that a recipe gives; what is absent or `null` has a default or is reported as missing later.
pub(super) fn check(recipe: &Value) -> Result<()> {
    check_objects(recipe)?;
    for rule in RULES {
        for value in values(recipe, rule.key) {
            match value {
                Value::Null => {}
                // A word, which deserialisation knows.
                Value::String(_) if rule.key == "flowMatching.flowShift" => {}
                Value::Array(list) if rule.list => list.iter().try_for_each(|value| rule.check(value))?,
                value => rule.check(value)?,
            }
        }
    }
    Ok(())
}

/// What stands under a key, in every object of a list on the way.
fn values<'a>(recipe: &'a Value, key: &str) -> Vec<&'a Value> {
    key.split('.').fold(vec![recipe], |objects, part| {
        let elements = objects.into_iter().flat_map(|object| match object {
            Value::Array(list) => list.iter().collect(),
            one => vec![one],
        });
        elements.filter_map(|object| object.get(part)).collect()
    })
}

/// serde reads a list as the values of a section in order, past the rules, which know keys.
fn check_objects(recipe: &Value) -> Result<()> {
    let refuse = |what: &str| Err(Error::Recipe(format!("{what} must be an object with keys, got a list")));
    if recipe.is_array() {
        return refuse("the recipe");
    }
    let listed = recipe.as_object().and_then(|sections| sections.iter().find(|(_, section)| section.is_array()));
    listed.map_or(Ok(()), |(name, _)| refuse(&format!("`{name}`")))
}

impl Rule {
    fn check(&self, value: &Value) -> Result<()> {
        match value.as_f64() {
            Some(number) if self.allows(number) => Ok(()),
            _ => Err(Error::Recipe(format!("`{}` must be {}, got {value}", self.key, self.range()))),
        }
    }

    fn allows(&self, number: f64) -> bool {
        let above = if self.above_min { number > self.min } else { number >= self.min };
        let below = if self.below_max { number < self.max } else { number <= self.max };
        above && below && (!self.whole || number.fract() == 0.0)
    }

    /// "a whole number, at least 1".
    fn range(&self) -> String {
        let mut words = Vec::new();
        if self.min > f64::NEG_INFINITY {
            words.push(format!("{} {}", if self.above_min { "above" } else { "at least" }, self.min));
        }
        if self.max < MAX_COUNT {
            words.push(format!("{} {}", if self.below_max { "below" } else { "at most" }, self.max));
        }
        let range = words.join(" and ");
        match (self.whole, range.is_empty()) {
            (true, _) => format!("a whole number, {range}"),
            (false, true) => "a number".into(),
            (false, false) => range,
        }
    }
}

/// Checks what depends on more than one key, or is not a number.
/// Integers do not learn.
pub(super) fn check_quantization(precision: Precision, trains: &str) -> Result<()> {
    match precision.trainable && precision.quantization != Quantization::None {
        true => Err(Error::Recipe(format!(
            "`quantization` must be none when {trains}: weights that train cannot be integers; train a LoRA instead"
        ))),
        false => Ok(()),
    }
}

pub(super) fn check_together(recipe: &Recipe) -> Result<()> {
    let (data, flow) = (&recipe.data, &recipe.flow_matching);
    let refuse = |message: String| Err(Error::Recipe(message));
    if let Some(side) = data.resolution.iter().find(|&side| side % 16 != 0) {
        let nearest = (side + 8) / 16 * 16;
        return refuse(format!("`data.resolution` must be a multiple of 16, got {side}; the nearest is {nearest}"));
    }
    if data.resolution.is_empty() {
        return refuse("`data.resolution` must have at least one value, got none".into());
    }
    check_sources(data)?;
    check_quantization(recipe.precision(), "`mode` is full")?;
    if data.train.is_empty() {
        return refuse("`data.train` must name at least one folder, got none".into());
    }
    if !data.held_out.is_empty() && data.held_out_count.is_some() {
        return refuse("`data.heldOutCount` and `data.heldOut` exclude each other; keep one".into());
    }
    check_sigma_range("flowMatching.", flow.sigma_min, flow.sigma_max)?;
    if recipe.lr_schedule.warmup_steps >= recipe.train.steps {
        let (warmup, steps) = (recipe.lr_schedule.warmup_steps, recipe.train.steps);
        return refuse(format!("`lrSchedule.warmupSteps` must be below `train.steps` ({steps}), got {warmup}"));
    }
    if recipe.validation.sigmas.is_empty() {
        return refuse("`validation.sigmas` must have at least one value, got none".into());
    }
    if recipe.lora.targets.as_ref().is_some_and(Vec::is_empty) {
        return refuse("`lora.targets` must name at least one module; leave it out for the default".into());
    }
    Ok(())
}

/// Repeats and weights are against each other, and of no use where every image is used once.
fn check_sources(data: &DataRecipe) -> Result<()> {
    let refuse = |message: &str| Err(Error::Recipe(message.to_owned()));
    if data.held_out.iter().any(|source| source.repeats.is_some() || source.weight.is_some()) {
        return refuse("`data.heldOut` takes neither `repeats` nor `weight`: each held-out image is used once");
    }
    if data.train.iter().any(|source| source.repeats.is_some() && source.weight.is_some()) {
        return refuse("`data.train`: `repeats` and `weight` of a source exclude each other; keep one");
    }
    let weighted = data.train.iter().filter(|source| source.weight.is_some()).count();
    if weighted > 0 && weighted < data.train.len() {
        return refuse("`data.train`: give `weight` to every source, or to none");
    }
    Ok(())
}

/// `prefix` is what stands before the keys.
pub(super) fn check_sigma_range(prefix: &str, min: f64, max: f64) -> Result<()> {
    match min < max {
        true => Ok(()),
        false => Err(Error::Recipe(format!("`{prefix}sigmaMin` must be below `{prefix}sigmaMax` ({max}), got {min}"))),
    }
}

#[cfg(test)]
pub(super) fn keys() -> impl Iterator<Item = &'static str> {
    RULES.iter().map(|rule| rule.key)
}
