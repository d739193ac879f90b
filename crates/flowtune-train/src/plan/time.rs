//! How long a run takes: its operations over the rate of this machine's products.

use std::time::{Duration, Instant};

use flowtune_engine::{DType, Device, Tape, Tensor, Var};
use flowtune_models::{ComputeDtype, Quantization};
use serde::Serialize;

use super::inputs::DataSize;
use super::memory::{Rehearsal, Work};
use super::rehearsal::Operations;
use crate::error::Result;
use crate::recipe::Recipe;

/// Seconds; all of them are estimates, and a machine that has other work takes longer.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct TimePlan {
    /// Of an optimizer step.
    pub step: f64,
    /// All steps.
    pub training: f64,
    /// Encoding of all captions and images; 0 where the cache may have them.
    pub encoding: f64,
    /// The held-out loss, each time that it is taken.
    pub evaluation: f64,
    /// Sample images, before and after.
    pub sampling: f64,
    /// The whole run.
    pub total: f64,
    /// Operations of an optimizer step; a multiply-add is two.
    pub step_operations: f64,
    /// Operations a second of the engine's products here and now, in the recipe's type.
    pub rate: f64,
}

/// Share of the products' rate that a whole step reaches, by the type of activations: docs/performance.md, "of rate".
fn efficiency(dtype: ComputeDtype) -> f64 {
    match dtype {
        ComputeDtype::Float32 => 0.88,
        ComputeDtype::Bfloat16 => 0.8,
    }
}

/// How long one kind of product is timed.
const CALIBRATION: Duration = Duration::from_millis(200);
/// Rows and columns of what the processor is timed with.
const SIDE: usize = 1024;

/// Rate of products with nf4 weights, which are made into numbers on the way, against those without.
const NF4_AGAINST_PLAIN: f64 = 0.8;

/// Operations a second, by kind.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rates {
    plain: f64,
    quantised: f64,
    float32: f64,
}

impl Rates {
    /// Times products of the recipe's types: half a second.
    pub(super) fn measure(recipe: &Recipe) -> Result<Self> {
        let compute = recipe.precision().compute();
        let float32 = rate(DType::F32, DType::F32)?;
        let plain = if compute == DType::F32 { float32 } else { rate(compute, compute)? };
        let quantised = match recipe.model.quantization {
            Quantization::None => plain,
            Quantization::Int8 => rate(compute, DType::I8)?,
            Quantization::Nf4 => rate(compute, DType::Nf4)?,
        };
        let share = efficiency(recipe.model.dtype);
        Ok(Self {
            plain: share * plain,
            quantised: share * quantised,
            float32: efficiency(ComputeDtype::Float32) * float32,
        })
    }

    /// Rates of no machine: how the types compare, as docs/performance.md has them.
    pub(super) fn nominal(recipe: &Recipe) -> Self {
        let plain = match recipe.model.dtype {
            ComputeDtype::Float32 => 1.0,
            ComputeDtype::Bfloat16 => 1.7,
        };
        let against_plain = match recipe.model.quantization {
            Quantization::None => 1.0,
            Quantization::Int8 => 1.7,
            Quantization::Nf4 => NF4_AGAINST_PLAIN,
        };
        Self { plain, quantised: against_plain * plain, float32: 1.0 }
    }

    /// Seconds of operations in the types of the recipe.
    pub(super) fn seconds(self, operations: Operations) -> f64 {
        operations.plain / self.plain + operations.quantised / self.quantised
    }

    fn seconds_in_float32(self, operations: Operations) -> f64 {
        operations.plain / self.float32
    }
}

/// Operations a second of x·Wᵀ, where this build computes.
fn rate(activations: DType, weights: DType) -> Result<f64> {
    let device = Device::preferred()?;
    // A card does not wait for each product: several, and then a look at the last.
    let (side, products) = if device.card()?.is_some() { (4 * SIDE, 16) } else { (SIDE, 1) };
    let values: Vec<f32> = (0..side * side).map(|i| ((i * 37) % 101) as f32 * 0.02 - 1.0).collect();
    let square = Tensor::from_vec(values, &[side, side])?;
    let there = |dtype| Ok::<_, flowtune_engine::Error>(Var::constant(square.to_dtype(dtype)?.to_device(&device)?));
    let (x, w) = (there(activations)?, there(weights)?);
    let tape = Tape::inference();
    let product = || -> Result<()> {
        for _ in 1..products {
            tape.linear(&x, &w, None)?;
        }
        Ok(tape.linear(&x, &w, None)?.tensor().rows(0, 1)?.to_device(&Device::cpu()).map(drop)?)
    };
    // The first pages memory in.
    product()?;
    let (mut seconds, begin) = (Vec::new(), Instant::now());
    while begin.elapsed() < CALIBRATION || seconds.len() < 3 {
        let start = Instant::now();
        product()?;
        seconds.push(start.elapsed().as_secs_f64());
    }
    seconds.sort_by(f64::total_cmp);
    Ok(products as f64 * 2.0 * (side as f64).powi(3) / seconds[seconds.len() / 2])
}

/// Seconds of the run.
pub(super) fn time(data: DataSize, encodes: bool, recipe: &Recipe, run: &Rehearsal, rates: Rates) -> TimePlan {
    let Work { caption, image, step, evaluation, sample, decode } = run.work;
    let images = (data.images + data.held_out) as f64;
    let encoding = match encodes {
        true => rates.seconds_in_float32(caption) * data.captions as f64 + rates.seconds_in_float32(image) * images,
        false => 0.0,
    };
    let validation = &recipe.validation;
    let batches = data.held_out.div_ceil(recipe.train.batch_size) * validation.sigmas.len();
    let between = validation.every_steps.map_or(0, |every| recipe.train.steps.saturating_sub(1) / every.max(1));
    let evaluation = rates.seconds(evaluation) * (batches as u64 * (2 + between)) as f64;
    let pictures = 2.0 * validation.prompts.len() as f64;
    let sampling = pictures * (rates.seconds(sample) + rates.seconds_in_float32(decode));
    let of_step = rates.seconds(step);
    let training = of_step * recipe.train.steps as f64;
    let step_operations = step.plain + step.quantised;
    TimePlan {
        step: of_step,
        training,
        encoding,
        evaluation,
        sampling,
        total: encoding + training + evaluation + sampling,
        step_operations,
        rate: step_operations / of_step,
    }
}
