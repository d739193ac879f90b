//! The gated residual connection.

use crate::cpu::parallel;
use crate::device;
use crate::dtype::{Stored, with_stored};
use crate::error::{Result, shape_error};
use crate::tape::{Tape, Var};
use crate::tensor::Tensor;

impl Tape {
    /// x + gate·y: x and y `[batch, tokens, dim]`, gate `[batch, dim]`. When y is bfloat16, x and gate are float32: what a
    /// residual stream adds up over many blocks would otherwise be rounded by each.
    ///
    /// # Errors
    /// `SHAPE_MISMATCH` when the extents do not fit.
    pub fn gated_residual(&self, x: &Var, gate: &Var, y: &Var) -> Result<Var> {
        let &[batch, tokens, dim] = x.tensor().shape() else {
            return Err(shape_error("gated_residual", "x", "[batch, tokens, dim]", x.tensor().shape()));
        };
        if y.tensor().shape() != x.tensor().shape() {
            let expected = format!("{:?}", x.tensor().shape());
            return Err(shape_error("gated_residual", "y", expected, y.tensor().shape()));
        }
        if gate.tensor().shape() != [batch, dim] {
            let expected = format!("[{batch}, {dim}]");
            return Err(shape_error("gated_residual", "gate", expected, gate.tensor().shape()));
        }
        with_stored!(y.tensor().dtype(), "gated_residual", T => {
            let (gates, ys) = (gate.tensor().clone(), y.tensor().clone());
            let value = forward::<T>(x.tensor(), &gates, &ys, tokens)?;
            Ok(self.record(&[x, gate, y], value, |needs| {
                move |g: Tensor| {
                    let d_gate = needs[1].then(|| gate_gradient::<T>(&ys, &g)).transpose()?;
                    let dy = needs[2].then(|| gated::<T>(&g, &gates, tokens)).transpose()?;
                    Ok(vec![needs[0].then_some(g), d_gate, dy])
                }
            }))
        })
    }
}

fn forward<T: Stored>(x: &Tensor, gate: &Tensor, y: &Tensor, tokens: usize) -> Result<Tensor> {
    if let Some((on, [x, gate, y])) = device::operands("gated_residual", [x, gate, y])? {
        return device::gated_residual(on, &x, &gate, &y);
    }
    let dim = x.last_dim();
    let (xs, ys, gate) = (x.as_slice::<T::Compute>()?, y.as_slice::<T>()?, gate.as_slice::<T::Compute>()?);
    let out = parallel::fill(
        xs.len() / dim,
        dim,
        #[inline(always)]
        |i, out| {
            let (x, y) = (&xs[i * dim..][..dim], &ys[i * dim..][..dim]);
            let gate = &gate[i / tokens * dim..][..dim];
            for j in 0..dim {
                out[j] = x[j] + gate[j] * y[j].load();
            }
        },
    );
    Ok(Tensor::new(out, x.shape()))
}

/// gate·g, the gradient of y.
fn gated<T: Stored>(g: &Tensor, gate: &Tensor, tokens: usize) -> Result<Tensor> {
    if let Some((on, [g, gate])) = device::operands("gated_residual", [g, gate])? {
        return device::gated(on, &g, &gate, T::DTYPE);
    }
    let dim = g.last_dim();
    let (gs, gate) = (g.as_slice::<T::Compute>()?, gate.as_slice::<T::Compute>()?);
    let out = parallel::fill::<T>(
        gs.len() / dim,
        dim,
        #[inline(always)]
        |i, out| {
            let (g, gate) = (&gs[i * dim..][..dim], &gate[i / tokens * dim..][..dim]);
            for j in 0..dim {
                out[j] = T::store(gate[j] * g[j]);
            }
        },
    );
    Ok(Tensor::new(out, g.shape()))
}

/// Σ_tokens g·y, `[batch, dim]`.
fn gate_gradient<T: Stored>(y: &Tensor, g: &Tensor) -> Result<Tensor> {
    if let Some((on, [y, g])) = device::operands("gated_residual", [y, g])? {
        return device::gate_gradient(on, &y, &g);
    }
    let (batch, tokens, dim) = (g.dim(0), g.dim(1), g.dim(2));
    let (ys, gs) = (y.as_slice::<T>()?, g.as_slice::<T::Compute>()?);
    let mut out = Vec::<T::Compute>::with_capacity(batch * dim);
    for b in 0..batch {
        let sums = parallel::sum_rows(
            tokens,
            dim,
            #[inline(always)]
            |t, acc: &mut [T::Compute]| {
                let at = (b * tokens + t) * dim;
                for ((acc, &g), &y) in acc.iter_mut().zip(&gs[at..][..dim]).zip(&ys[at..][..dim]) {
                    *acc += g * y.load();
                }
            },
        );
        out.extend(sums);
    }
    Ok(Tensor::new(out, &[batch, dim]))
}
