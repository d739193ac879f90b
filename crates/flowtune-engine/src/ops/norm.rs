//! LayerNorm with modulation, and RMSNorm.

use crate::cpu::{lanes, parallel};
use crate::dtype::{Real, with_real};
use crate::error::{Result, shape_error};
use crate::tape::{Tape, Var};
use crate::tensor::Tensor;

impl Tape {
    /// (1 + scale)·LayerNorm(x) + shift, LayerNorm without affine: x `[batch, tokens, dim]`, scale and shift
    /// `[batch, dim]` → `[batch, tokens, dim]`.
    ///
    /// # Errors
    /// `SHAPE_MISMATCH` when the extents do not fit.
    pub fn layer_norm_modulate(&self, x: &Var, scale: &Var, shift: &Var, eps: f64) -> Result<Var> {
        let &[batch, tokens, dim] = x.tensor().shape() else {
            return Err(shape_error("layer_norm_modulate", "x", "[batch, tokens, dim]", x.tensor().shape()));
        };
        for (name, v) in [("scale", scale), ("shift", shift)] {
            if v.tensor().shape() != [batch, dim] {
                let expected = format!("[{batch}, {dim}]");
                return Err(shape_error("layer_norm_modulate", name, expected, v.tensor().shape()));
            }
        }
        with_real!(x.tensor().dtype(), "layer_norm_modulate", T => {
            let xs = x.tensor().clone();
            let scales = scale.tensor().clone();
            let value = modulate::<T>(&xs, &scales, shift.tensor(), tokens, T::of(eps))?;
            Ok(self.record(&[x, scale, shift], value, |needs| {
                move |g: Tensor| modulate_backward::<T>(&xs, &scales, &g, tokens, T::of(eps), &needs)
            }))
        })
    }

    /// x / √(mean(x²) + eps) · weight over the last dimension: x `[.., dim]`, weight `[dim]`.
    ///
    /// # Errors
    /// `SHAPE_MISMATCH` when the extents do not fit.
    pub fn rms_norm(&self, x: &Var, weight: &Var, eps: f64) -> Result<Var> {
        with_real!(x.tensor().dtype(), "rms_norm", T => {
            let (xs, w) = (x.tensor().clone(), weight.tensor().clone());
            let value = rms::<T>(&xs, &w, T::of(eps))?;
            Ok(self.record(&[x, weight], value, |needs| {
                move |g: Tensor| rms_backward::<T>(&xs, &w, &g, T::of(eps), &needs)
            }))
        })
    }
}

/// RMSNorm, forward only; shapes as [`Tape::rms_norm`].
///
/// # Errors
/// `SHAPE_MISMATCH` when the extents do not fit.
pub fn rms_norm(x: &Tensor, weight: &Tensor, eps: f64) -> Result<Tensor> {
    with_real!(x.dtype(), "rms_norm", T => rms::<T>(x, weight, T::of(eps)))
}

/// Mean and 1/√(variance + eps) of a row.
#[inline(always)]
fn moments<T: Real>(x: &[T], eps: T) -> (T, T) {
    let n = T::of(x.len() as f64);
    let mean = lanes::sum(x) / n;
    let variance = lanes::sum_by(x, |v| (v - mean) * (v - mean)) / n;
    (mean, (variance + eps).sqrt().recip())
}

fn modulate<T: Real>(x: &Tensor, scale: &Tensor, shift: &Tensor, tokens: usize, eps: T) -> Result<Tensor> {
    let dim = x.last_dim();
    let (xs, scale, shift) = (x.as_slice::<T>()?, scale.as_slice::<T>()?, shift.as_slice::<T>()?);
    let out = parallel::fill(xs.len() / dim, dim, |i, out| {
        let row = &xs[i * dim..][..dim];
        let sample = i / tokens * dim;
        let (scale, shift) = (&scale[sample..][..dim], &shift[sample..][..dim]);
        let (mean, rstd) = moments(row, eps);
        for j in 0..dim {
            out[j] = (row[j] - mean) * rstd * (T::one() + scale[j]) + shift[j];
        }
    });
    Ok(Tensor::new(out, x.shape()))
}

/// With x̂ = (x − mean)·rstd and u = g·(1 + scale): dx = rstd·(u − mean(u) − x̂·mean(u·x̂)),
/// dscale = Σ_tokens g·x̂, dshift = Σ_tokens g.
fn modulate_backward<T: Real>(
    x: &Tensor,
    scale: &Tensor,
    g: &Tensor,
    tokens: usize,
    eps: T,
    needs: &[bool],
) -> Result<Vec<Option<Tensor>>> {
    let dim = x.last_dim();
    let (xs, gs, scale) = (x.as_slice::<T>()?, g.as_slice::<T>()?, scale.as_slice::<T>()?);
    let n = T::of(dim as f64);
    let dx = needs[0].then(|| {
        Tensor::new(
            parallel::fill(xs.len() / dim, dim, |i, dx| {
                let (x, g) = (&xs[i * dim..][..dim], &gs[i * dim..][..dim]);
                let scale = &scale[i / tokens * dim..][..dim];
                let (mean, rstd) = moments(x, eps);
                for j in 0..dim {
                    dx[j] = g[j] * (T::one() + scale[j]);
                }
                let mean_u = lanes::sum(dx) / n;
                let mean_ux = lanes::sum_by2(dx, x, |u, x| u * (x - mean)) * rstd / n;
                for j in 0..dim {
                    dx[j] = rstd * (dx[j] - mean_u - (x[j] - mean) * rstd * mean_ux);
                }
            }),
            x.shape(),
        )
    });
    if !needs[1] && !needs[2] {
        return Ok(vec![dx, None, None]);
    }
    let batch = x.dim(0);
    let (mut dscale, mut dshift) = (Vec::<T>::with_capacity(batch * dim), Vec::with_capacity(batch * dim));
    for b in 0..batch {
        let both = parallel::sum_rows(tokens, 2 * dim, |t, acc: &mut [T]| {
            let at = (b * tokens + t) * dim;
            let (x, g) = (&xs[at..][..dim], &gs[at..][..dim]);
            let (mean, rstd) = moments(x, eps);
            let (dscale, dshift) = acc.split_at_mut(dim);
            for j in 0..dim {
                dscale[j] += g[j] * (x[j] - mean) * rstd;
                dshift[j] += g[j];
            }
        });
        dscale.extend_from_slice(&both[..dim]);
        dshift.extend_from_slice(&both[dim..]);
    }
    let shape = [batch, dim];
    Ok(vec![dx, needs[1].then(|| Tensor::new(dscale, &shape)), needs[2].then(|| Tensor::new(dshift, &shape))])
}

fn rms<T: Real>(x: &Tensor, weight: &Tensor, eps: T) -> Result<Tensor> {
    let dim = x.last_dim();
    if weight.shape() != [dim] {
        return Err(shape_error("rms_norm", "weight", format!("[{dim}]"), weight.shape()));
    }
    let (xs, w) = (x.as_slice::<T>()?, weight.as_slice::<T>()?);
    let out = parallel::fill(xs.len() / dim, dim, |i, out| {
        let row = &xs[i * dim..][..dim];
        let rstd = inverse_rms(row, eps);
        for j in 0..dim {
            out[j] = row[j] * rstd * w[j];
        }
    });
    Ok(Tensor::new(out, x.shape()))
}

#[inline(always)]
fn inverse_rms<T: Real>(x: &[T], eps: T) -> T {
    (lanes::dot(x, x) / T::of(x.len() as f64) + eps).sqrt().recip()
}

/// With r = 1/rms: dx = r·(g·w − x·r²·mean(g·w·x)), dw = Σ g·x·r.
fn rms_backward<T: Real>(
    x: &Tensor,
    weight: &Tensor,
    g: &Tensor,
    eps: T,
    needs: &[bool],
) -> Result<Vec<Option<Tensor>>> {
    let dim = x.last_dim();
    let (xs, w, gs) = (x.as_slice::<T>()?, weight.as_slice::<T>()?, g.as_slice::<T>()?);
    let rows = xs.len() / dim;
    let n = T::of(dim as f64);
    let dx = needs[0].then(|| {
        Tensor::new(
            parallel::fill(rows, dim, |i, dx| {
                let (x, g) = (&xs[i * dim..][..dim], &gs[i * dim..][..dim]);
                let r = inverse_rms(x, eps);
                for j in 0..dim {
                    dx[j] = g[j] * w[j];
                }
                let mean = lanes::dot(dx, x) / n * r * r;
                for j in 0..dim {
                    dx[j] = r * (dx[j] - x[j] * mean);
                }
            }),
            x.shape(),
        )
    });
    let dw = needs[1].then(|| {
        let sum = parallel::sum_rows(rows, dim, |i, acc: &mut [T]| {
            let (x, g) = (&xs[i * dim..][..dim], &gs[i * dim..][..dim]);
            let r = inverse_rms(x, eps);
            for j in 0..dim {
                acc[j] += g[j] * x[j] * r;
            }
        });
        Tensor::new(sum, &[dim])
    });
    Ok(vec![dx, dw])
}
