//! The gated activation of the feed-forward layers.

use super::elementwise::{sigmoid, silu_gradient};
use crate::cpu::parallel;
use crate::device;
use crate::dtype::{Stored, with_stored};
use crate::error::{Result, shape_error};
use crate::tape::{Tape, Var};
use crate::tensor::Tensor;

impl Tape {
    /// silu(first half)·second half of the last dimension: x `[.., 2·dim]` → `[.., dim]`.
    ///
    /// # Errors
    /// `SHAPE_MISMATCH` when the last dimension is odd.
    pub fn swiglu(&self, x: &Var) -> Result<Var> {
        if x.tensor().last_dim() % 2 == 1 {
            return Err(shape_error("swiglu", "x", "[.., 2·dim]", x.tensor().shape()));
        }
        with_stored!(x.tensor().dtype(), "swiglu", T => {
            let xs = x.tensor().clone();
            let value = forward::<T>(&xs)?;
            let again = xs.clone();
            let value = self.record(&[x], value, |_| move |g: Tensor| Ok(vec![Some(backward::<T>(&xs, &g)?)]));
            Ok(self.cheap(value, move || forward::<T>(&again)))
        })
    }
}

fn forward<T: Stored>(x: &Tensor) -> Result<Tensor> {
    if let Some((on, [x])) = device::operands("swiglu", [x])? {
        return device::swiglu(on, &x);
    }
    let dim = x.last_dim() / 2;
    let xs = x.as_slice::<T>()?;
    let mut shape = x.shape().to_vec();
    shape.pop();
    shape.push(dim);
    let out = parallel::fill(
        xs.len() / (2 * dim),
        dim,
        #[inline(always)]
        |i, out| {
            let (gate, up) = xs[i * 2 * dim..][..2 * dim].split_at(dim);
            for j in 0..dim {
                let gate = gate[j].load();
                out[j] = T::store(gate * sigmoid(gate) * up[j].load());
            }
        },
    );
    Ok(Tensor::new(out, &shape))
}

fn backward<T: Stored>(x: &Tensor, g: &Tensor) -> Result<Tensor> {
    if let Some((on, [x, g])) = device::operands("swiglu", [x, g])? {
        return device::swiglu_backward(on, &x, &g);
    }
    let dim = x.last_dim() / 2;
    let (xs, gs) = (x.as_slice::<T>()?, g.as_slice::<T>()?);
    let out = parallel::fill(
        xs.len() / (2 * dim),
        2 * dim,
        #[inline(always)]
        |i, out| {
            let (gate, up) = xs[i * 2 * dim..][..2 * dim].split_at(dim);
            let g = &gs[i * dim..][..dim];
            let (d_gate, d_up) = out.split_at_mut(dim);
            for j in 0..dim {
                let (gate, up, g) = (gate[j].load(), up[j].load(), g[j].load());
                d_gate[j] = T::store(silu_gradient(gate, g * up));
                d_up[j] = T::store(g * gate * sigmoid(gate));
            }
        },
    );
    Ok(Tensor::new(out, x.shape()))
}
