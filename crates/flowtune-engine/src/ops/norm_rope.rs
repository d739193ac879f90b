//! RMSNorm of each head followed by the rotary embedding: what queries and keys go through, rounded once.

use num_traits::{Float, Zero};

use crate::cpu::{lanes, parallel};
use crate::device::{self, composed};
use crate::dtype::{Element, Real, Stored, with_stored};
use crate::error::{Result, shape_error};
use crate::ops::rope::RopeTable;
use crate::tape::{Tape, Var};
use crate::tensor::Tensor;

const OP: &str = "rms_norm_rope";

/// Largest width of a head: rotated gradients of one head wait on the stack.
const WIDEST_HEAD: usize = 512;

impl Tape {
    /// x / √(mean(x²) + eps) · weight of each head, each pair (x₂ᵢ, x₂ᵢ₊₁) then rotated by angle i of its token: x `[batch,
    /// tokens, heads, head_dim]`, weight `[head_dim]`, which may be wider than x. The backward rotates by the negative angle.
    ///
    /// # Errors
    /// `SHAPE_MISMATCH` when the extents do not fit, or a head is wider than 512.
    pub fn rms_norm_rope(&self, x: &Var, weight: &Var, eps: f64, table: &RopeTable) -> Result<Var> {
        table.check(x.tensor())?;
        let dim = x.tensor().last_dim();
        if weight.tensor().shape() != [dim] || dim > WIDEST_HEAD {
            let expected = format!("[{}]", dim.min(WIDEST_HEAD));
            return Err(shape_error("rms_norm_rope", "weight", expected, weight.tensor().shape()));
        }
        with_stored!(x.tensor().dtype(), "rms_norm_rope", T => {
            let (xs, w) = (x.tensor().clone(), weight.tensor().to_dtype(<<T as Stored>::Compute as Element>::KIND)?);
            let heads = Heads { table: table.clone(), eps };
            let value = heads.forward::<T>(&xs, &w)?;
            let again = (heads.clone(), xs.clone(), w.clone());
            let value = self.record(&[x, weight], value, |needs| {
                move |g: Tensor| {
                    let dx = needs[0].then(|| heads.input_gradient::<T>(&xs, &w, &g)).transpose()?;
                    let dw = needs[1].then(|| heads.weight_gradient::<T>(&xs, &g)).transpose()?;
                    Ok(vec![dx, dw])
                }
            });
            Ok(self.cheap(value, move || again.0.forward::<T>(&again.1, &again.2)))
        })
    }
}

#[derive(Clone)]
struct Heads {
    table: RopeTable,
    eps: f64,
}

impl Heads {
    fn forward<T: Stored>(&self, x: &Tensor, weight: &Tensor) -> Result<Tensor> {
        if let Some((on, [x, weight, cos, sin])) = device::operands(OP, [x, weight, &self.table.cos, &self.table.sin])?
        {
            let rope = composed::Rope { cos, sin };
            return device::rms_norm_rope(on, &x, &weight, &rope, self.eps);
        }
        let (xs, w) = (x.as_slice::<T>()?, weight.as_slice::<T::Compute>()?);
        let (dim, row) = (w.len(), x.dim(2) * w.len());
        let angles = self.table.angles::<T>(x.dim(1))?;
        let eps = T::Compute::of(self.eps);
        let out = parallel::fill::<T>(
            x.len() / row,
            row,
            #[inline(always)]
            |i, out| {
                let [cos, sin] = angles(i);
                for (out, x) in out.chunks_exact_mut(dim).zip(xs[i * row..][..row].chunks_exact(dim)) {
                    let r = inverse_rms(x, eps);
                    let (out, x, w) = (out.as_chunks_mut::<2>().0, x.as_chunks::<2>().0, w.as_chunks::<2>().0);
                    for ((((out, x), w), &cos), &sin) in out.iter_mut().zip(x).zip(w).zip(cos).zip(sin) {
                        let [a, b] = [normed(x[0], r, w[0]), normed(x[1], r, w[1])];
                        *out = [T::store(a * cos - b * sin), T::store(b * cos + a * sin)];
                    }
                }
            },
        );
        Ok(Tensor::new(out, x.shape()))
    }

    /// With u = g rotated back, times the weight, and r = 1/rms: r·(u − x·r²·mean(u·x)).
    fn input_gradient<T: Stored>(&self, x: &Tensor, weight: &Tensor, g: &Tensor) -> Result<Tensor> {
        let table = &self.table;
        if let Some((on, [x, weight, g, cos, sin])) = device::operands(OP, [x, weight, g, &table.cos, &table.sin])? {
            let rope = composed::Rope { cos, sin };
            return device::rms_norm_rope_input_gradient(on, [&x, &weight, &g], &rope, self.eps);
        }
        let (xs, w, gs) = (x.as_slice::<T>()?, weight.as_slice::<T::Compute>()?, g.as_slice::<T>()?);
        let (dim, row) = (w.len(), x.dim(2) * w.len());
        let angles = self.table.angles::<T>(x.dim(1))?;
        let (eps, n) = (T::Compute::of(self.eps), T::Compute::of(dim as f64));
        let dx = parallel::fill::<T>(
            x.len() / row,
            row,
            #[inline(always)]
            |i, dx| {
                let [cos, sin] = angles(i);
                let mut u = [T::Compute::zero(); WIDEST_HEAD];
                let u = &mut u[..dim];
                let heads = xs[i * row..][..row].chunks_exact(dim).zip(gs[i * row..][..row].chunks_exact(dim));
                for (dx, (x, g)) in dx.chunks_exact_mut(dim).zip(heads) {
                    let r = inverse_rms(x, eps);
                    rotate_back(g, cos, sin, u);
                    u.iter_mut().zip(w).for_each(|(u, &w)| *u *= w);
                    let mean = lanes::dot(u, x) / n * r * r;
                    for j in 0..dim {
                        dx[j] = T::store(r * (u[j] - x[j].load() * mean));
                    }
                }
            },
        );
        Ok(Tensor::new(dx, x.shape()))
    }

    /// Σ over tokens and heads of x·r times g rotated back.
    fn weight_gradient<T: Stored>(&self, x: &Tensor, g: &Tensor) -> Result<Tensor> {
        if let Some((on, [x, g, cos, sin])) = device::operands(OP, [x, g, &self.table.cos, &self.table.sin])? {
            let rope = composed::Rope { cos, sin };
            return device::rms_norm_rope_weight_gradient(on, &x, &rope, &g, self.eps);
        }
        let (xs, gs) = (x.as_slice::<T>()?, g.as_slice::<T>()?);
        let (dim, row) = (x.last_dim(), x.dim(2) * x.last_dim());
        let angles = self.table.angles::<T>(x.dim(1))?;
        let eps = T::Compute::of(self.eps);
        let sum = parallel::sum_rows(
            x.len() / row,
            dim,
            #[inline(always)]
            |i, acc: &mut [T::Compute]| {
                let [cos, sin] = angles(i);
                let mut u = [T::Compute::zero(); WIDEST_HEAD];
                let u = &mut u[..dim];
                let heads = xs[i * row..][..row].chunks_exact(dim).zip(gs[i * row..][..row].chunks_exact(dim));
                for (x, g) in heads {
                    let r = inverse_rms(x, eps);
                    rotate_back(g, cos, sin, u);
                    for j in 0..dim {
                        acc[j] += u[j] * x[j].load() * r;
                    }
                }
            },
        );
        Ok(Tensor::new(sum, &[dim]))
    }
}

#[inline(always)]
fn inverse_rms<T: Stored>(x: &[T], eps: T::Compute) -> T::Compute {
    (lanes::dot(x, x) / T::Compute::of(x.len() as f64) + eps).sqrt().recip()
}

#[inline(always)]
fn normed<T: Stored>(x: T, r: T::Compute, w: T::Compute) -> T::Compute {
    x.load() * r * w
}

/// Pairs of g by the negative angles.
#[inline(always)]
fn rotate_back<T: Stored>(g: &[T], cos: &[T::Compute], sin: &[T::Compute], out: &mut [T::Compute]) {
    let (g, out) = (g.as_chunks::<2>().0, out.as_chunks_mut::<2>().0);
    for (((out, g), &cos), &sin) in out.iter_mut().zip(g).zip(cos).zip(sin) {
        let (a, b) = (g[0].load(), g[1].load());
        *out = [a * cos + b * sin, b * cos - a * sin];
    }
}
