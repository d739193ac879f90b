//! LayerNorm with modulation, and RMSNorm.

use candle_core::WithDType;
use num_traits::{Float, One};

use crate::cpu::{lanes, parallel};
use crate::device::{self, composed};
use crate::dtype::{DType, Element, Real, Stored, with_stored};
use crate::error::{Result, shape_error};
use crate::tape::{Tape, Var};
use crate::tensor::Tensor;

impl Tape {
    /// (1 + scale)·LayerNorm(x) + shift, LayerNorm without affine: x `[batch, tokens, dim]`, scale and shift
    /// `[batch, dim]` → `[batch, tokens, dim]` in `dtype`. For bfloat16, x, scale and shift are float32.
    ///
    /// # Errors
    /// `SHAPE_MISMATCH` when the extents do not fit.
    pub fn layer_norm_modulate(&self, x: &Var, scale: &Var, shift: &Var, eps: f64, dtype: DType) -> Result<Var> {
        let &[batch, tokens, dim] = x.tensor().shape() else {
            return Err(shape_error("layer_norm_modulate", "x", "[batch, tokens, dim]", x.tensor().shape()));
        };
        for (name, v) in [("scale", scale), ("shift", shift)] {
            if v.tensor().shape() != [batch, dim] {
                let expected = format!("[{batch}, {dim}]");
                return Err(shape_error("layer_norm_modulate", name, expected, v.tensor().shape()));
            }
        }
        with_stored!(dtype, "layer_norm_modulate", T => {
            let xs = x.tensor().clone();
            let scales = scale.tensor().clone();
            let value = modulate::<T>(&xs, &scales, shift.tensor(), tokens, real::<T>(eps))?;
            let again = [&xs, &scales, shift.tensor()].map(Tensor::clone);
            let value = self.record(&[x, scale, shift], value, |needs| {
                move |g: Tensor| modulate_backward::<T>(&xs, &scales, &g, tokens, real::<T>(eps), &needs)
            });
            Ok(self.cheap(value, move || modulate::<T>(&again[0], &again[1], &again[2], tokens, real::<T>(eps))))
        })
    }
}

/// x / √(mean(x²) + eps) · weight over the last dimension, forward only: x `[.., dim]`, weight `[dim]`.
///
/// # Errors
/// `SHAPE_MISMATCH` when the extents do not fit.
pub fn rms_norm(x: &Tensor, weight: &Tensor, eps: f64) -> Result<Tensor> {
    with_stored!(x.dtype(), "rms_norm", T => rms::<T>(x, weight, real::<T>(eps)))
}

fn real<T: Stored>(value: f64) -> T::Compute {
    T::Compute::of(value)
}

/// Mean and 1/√(variance + eps) of a row.
#[inline(always)]
fn moments<T: Stored>(x: &[T], eps: T::Compute) -> (T::Compute, T::Compute) {
    let n = real::<T>(x.len() as f64);
    let mean = lanes::sum(x) / n;
    let variance = lanes::sum_by(x, |v| (v - mean) * (v - mean)) / n;
    (mean, (variance + eps).sqrt().recip())
}

fn modulate<T: Stored>(x: &Tensor, scale: &Tensor, shift: &Tensor, tokens: usize, eps: T::Compute) -> Result<Tensor> {
    if let Some((on, [x, scale, shift])) = device::operands("layer_norm_modulate", [x, scale, shift])? {
        return device::layer_norm_modulate(on, [&x, &scale, &shift], WithDType::to_f64(eps), T::DTYPE);
    }
    let dim = x.last_dim();
    let xs = x.as_slice::<T::Compute>()?;
    let (scale, shift) = (scale.as_slice::<T::Compute>()?, shift.as_slice::<T::Compute>()?);
    let out = parallel::fill::<T>(
        xs.len() / dim,
        dim,
        #[inline(always)]
        |i, out| {
            let row = &xs[i * dim..][..dim];
            let sample = i / tokens * dim;
            let (scale, shift) = (&scale[sample..][..dim], &shift[sample..][..dim]);
            let (mean, rstd) = moments(row, eps);
            for j in 0..dim {
                out[j] = T::store((row[j] - mean) * rstd * (T::Compute::one() + scale[j]) + shift[j]);
            }
        },
    );
    Ok(Tensor::new(out, x.shape()))
}

/// With x̂ = (x − mean)·rstd and u = g·(1 + scale): dx = rstd·(u − mean(u) − x̂·mean(u·x̂)),
/// dscale = Σ_tokens g·x̂, dshift = Σ_tokens g.
fn modulate_backward<T: Stored>(
    x: &Tensor,
    scale: &Tensor,
    g: &Tensor,
    tokens: usize,
    eps: T::Compute,
    needs: &[bool],
) -> Result<Vec<Option<Tensor>>> {
    if let Some((on, [x, scale, g])) = device::operands("layer_norm_modulate", [x, scale, g])? {
        return device::layer_norm_modulate_backward(on, [&x, &scale, &g], WithDType::to_f64(eps), needs);
    }
    let dim = x.last_dim();
    let (xs, gs, scale) = (x.as_slice::<T::Compute>()?, g.as_slice::<T>()?, scale.as_slice::<T::Compute>()?);
    let n = real::<T>(dim as f64);
    let dx = needs[0].then(|| {
        Tensor::new(
            parallel::fill(
                xs.len() / dim,
                dim,
                #[inline(always)]
                |i, dx| {
                    let (x, g) = (&xs[i * dim..][..dim], &gs[i * dim..][..dim]);
                    let scale = &scale[i / tokens * dim..][..dim];
                    let (mean, rstd) = moments(x, eps);
                    let one = T::Compute::one();
                    let mean_u = lanes::sum_by2(g, scale, |g, s| g * (one + s)) / n;
                    let mean_ux = lanes::sum_by3(g, scale, x, |g, s, x| g * (one + s) * (x - mean)) * rstd / n;
                    for j in 0..dim {
                        let u = g[j].load() * (one + scale[j]);
                        dx[j] = rstd * (u - mean_u - (x[j] - mean) * rstd * mean_ux);
                    }
                },
            ),
            x.shape(),
        )
    });
    if !needs[1] && !needs[2] {
        return Ok(vec![dx, None, None]);
    }
    let batch = x.dim(0);
    let (mut dscale, mut dshift) = (Vec::with_capacity(batch * dim), Vec::with_capacity(batch * dim));
    for b in 0..batch {
        let both = parallel::sum_rows(
            tokens,
            2 * dim,
            #[inline(always)]
            |t, acc: &mut [T::Compute]| {
                let at = (b * tokens + t) * dim;
                let (x, g) = (&xs[at..][..dim], &gs[at..][..dim]);
                let (mean, rstd) = moments(x, eps);
                let (dscale, dshift) = acc.split_at_mut(dim);
                for j in 0..dim {
                    dscale[j] += g[j].load() * (x[j] - mean) * rstd;
                    dshift[j] += g[j].load();
                }
            },
        );
        dscale.extend_from_slice(&both[..dim]);
        dshift.extend_from_slice(&both[dim..]);
    }
    let shape = [batch, dim];
    Ok(vec![dx, needs[1].then(|| Tensor::new(dscale, &shape)), needs[2].then(|| Tensor::new(dshift, &shape))])
}

fn rms<T: Stored>(x: &Tensor, weight: &Tensor, eps: T::Compute) -> Result<Tensor> {
    let dim = x.last_dim();
    if weight.shape() != [dim] {
        return Err(shape_error("rms_norm", "weight", format!("[{dim}]"), weight.shape()));
    }
    if let Some((on, [x, weight])) = device::operands("rms_norm", [x, weight])? {
        return device::made(on, composed::rms_norm(&x, &weight, WithDType::to_f64(eps)));
    }
    let (xs, weight) = (x.as_slice::<T>()?, weight.to_dtype(<T::Compute as Element>::KIND)?);
    let w = weight.as_slice::<T::Compute>()?;
    let out = parallel::fill(
        xs.len() / dim,
        dim,
        #[inline(always)]
        |i, out| {
            let row = &xs[i * dim..][..dim];
            let rstd = inverse_rms(row, eps);
            for j in 0..dim {
                out[j] = T::store(row[j].load() * rstd * w[j]);
            }
        },
    );
    Ok(Tensor::new(out, x.shape()))
}

#[inline(always)]
fn inverse_rms<T: Stored>(x: &[T], eps: T::Compute) -> T::Compute {
    (lanes::dot(x, x) / real::<T>(x.len() as f64) + eps).sqrt().recip()
}
