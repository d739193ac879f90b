//! What optimizers do to flat `f32` buffers, in place.

use crate::cpu::parallel;
use crate::cpu::simd::vectorised;
use crate::device;
use crate::error::{Result, shape_error};
use crate::tensor::Tensor;

/// Elements that one task updates.
const CHUNK: usize = 1 << 14;

/// Hyperparameters of one AdamW step.
#[derive(Debug, Clone, Copy)]
pub struct AdamW {
    /// Learning rate of this step.
    pub lr: f64,
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub eps: f64,
    /// Decoupled weight decay.
    pub weight_decay: f64,
}

/// The numbers of one AdamW step, made once for all weights.
#[derive(Debug, Clone, Copy)]
pub struct AdamWStep {
    pub(crate) step_size: f32,
    pub(crate) inverse_root: f32,
    pub(crate) decay: f32,
    pub(crate) eps: f32,
    pub(crate) one_minus_beta1: f32,
    pub(crate) beta2: f32,
    pub(crate) one_minus_beta2: f32,
}

impl AdamWStep {
    /// Of step `step`, which counts from 1.
    pub fn new(o: AdamW, step: u64) -> Self {
        let exponent = i32::try_from(step).unwrap_or(i32::MAX);
        Self {
            step_size: (o.lr / (1.0 - o.beta1.powi(exponent))) as f32,
            inverse_root: (1.0 / (1.0 - o.beta2.powi(exponent)).sqrt()) as f32,
            decay: (1.0 - o.lr * o.weight_decay) as f32,
            eps: o.eps as f32,
            one_minus_beta1: (1.0 - o.beta1) as f32,
            beta2: o.beta2 as f32,
            one_minus_beta2: (1.0 - o.beta2) as f32,
        }
    }
}

/// One step of AdamW (arXiv:1711.05101, in the order of `torch.optim.AdamW`) on a weight and its two moments,
/// all of one shape, `f32`. `step` counts from 1.
///
/// # Errors
/// `SHAPE_MISMATCH` when the shapes or dtypes differ.
pub fn adamw_step(
    weight: &mut Tensor,
    gradient: &Tensor,
    first: &mut Tensor,
    second: &mut Tensor,
    step: u64,
    o: AdamW,
) -> Result<()> {
    for (name, t) in [("gradient", gradient.shape()), ("first", first.shape()), ("second", second.shape())] {
        if t != weight.shape() {
            return Err(shape_error("adamw_step", name, format!("{:?}", weight.shape()), t));
        }
    }
    let s = AdamWStep::new(o, step);
    let places = [&*weight, gradient, &*first, &*second];
    if let Some((on, [w, g, ..])) = device::operands("adamw_step", places)? {
        *weight = device::adamw(on, &w, &g, [first, second], s)?;
        return Ok(());
    }
    let g = gradient.as_slice::<f32>()?;
    let (w, m, v) = (weight.as_mut_slice::<f32>()?, first.as_mut_slice::<f32>()?, second.as_mut_slice::<f32>()?);
    let chunks = w.chunks_mut(CHUNK).zip(m.chunks_mut(CHUNK)).zip(v.chunks_mut(CHUNK)).zip(g.chunks(CHUNK));
    parallel::each(chunks.collect(), |_, (((w, m), v), g)| {
        vectorised(
            #[inline(always)]
            || {
                for (((w, m), v), &g) in w.iter_mut().zip(m).zip(v).zip(g) {
                    *m += s.one_minus_beta1 * (g - *m);
                    *v = *v * s.beta2 + s.one_minus_beta2 * g * g;
                    *w = *w * s.decay - s.step_size * *m / (v.sqrt() * s.inverse_root + s.eps);
                }
            },
        );
    });
    Ok(())
}

/// Σ x² over all tensors in their order, in `f64`. A device is asked once.
///
/// # Errors
/// When one is not `f32`, or they are not all in one place.
pub fn sum_of_squares(tensors: &[&Tensor]) -> Result<f64> {
    if let Some((on, twins)) = device::all("sum_of_squares", tensors.iter().copied())? {
        return Ok(device::sums_of_squares(on, &twins)?.into_iter().sum());
    }
    tensors.iter().map(|x| Ok(squares_of(x.as_slice::<f32>()?))).sum()
}

fn squares_of(x: &[f32]) -> f64 {
    let pieces = parallel::map(x.chunks(CHUNK).collect(), |c| {
        vectorised(
            #[inline(always)]
            || squares(c),
        )
    });
    pieces.into_iter().sum()
}

/// In eight running sums, which a plain sum may not be split into; their order is fixed.
#[inline(always)]
fn squares(x: &[f32]) -> f64 {
    let mut sums = [0f64; 8];
    let chunks = x.chunks_exact(8);
    let tail: f64 = chunks.remainder().iter().map(|&x| f64::from(x) * f64::from(x)).sum();
    for chunk in chunks {
        for (sum, &x) in sums.iter_mut().zip(chunk) {
            *sum += f64::from(x) * f64::from(x);
        }
    }
    sums.into_iter().sum::<f64>() + tail
}

/// x ← factor·x.
///
/// # Errors
/// When x is not `f32`.
pub fn scale_in_place(x: &mut Tensor, factor: f32) -> Result<()> {
    if let Some((on, [twin])) = device::operands("scale_in_place", [&*x])? {
        *x = device::made(on, twin * f64::from(factor))?;
        return Ok(());
    }
    let chunks = x.as_mut_slice::<f32>()?.chunks_mut(CHUNK).collect();
    parallel::each(chunks, |_, c: &mut [f32]| c.iter_mut().for_each(|x| *x *= factor));
    Ok(())
}
