//! Rotary position embedding over interleaved pairs, as FLUX.2 has it.

use num_traits::One;

use crate::cpu::parallel;
use crate::dtype::{Stored, with_stored};
use crate::error::{Result, shape_error};
use crate::tape::{Tape, Var};
use crate::tensor::Tensor;

/// cos and sin of the rotation angles, both `[1 or batch, tokens, head_dim / 2]`; float32 for a bfloat16 computation.
#[derive(Debug, Clone)]
pub struct RopeTable {
    /// Cosines.
    pub cos: Tensor,
    /// Sines.
    pub sin: Tensor,
}

impl Tape {
    /// Rotates each pair (x₂ᵢ, x₂ᵢ₊₁) by angle i of its token: x `[batch, tokens, heads, head_dim]`.
    /// The backward is the rotation by the negative angle.
    ///
    /// # Errors
    /// `SHAPE_MISMATCH` when the table does not fit x.
    pub fn rope(&self, x: &Var, table: &RopeTable) -> Result<Var> {
        table.check(x.tensor())?;
        with_stored!(x.tensor().dtype(), "rope", T => {
            let value = rotate::<T>(x.tensor(), table, One::one())?;
            Ok(self.record(&[x], value, |_| {
                let table = table.clone();
                let back = -<T as Stored>::Compute::one();
                move |g: Tensor| Ok(vec![Some(rotate::<T>(&g, &table, back)?)])
            }))
        })
    }
}

impl RopeTable {
    /// The angles of tokens `start..start + count`.
    ///
    /// # Errors
    /// `SHAPE_MISMATCH` when there are no such tokens.
    pub fn narrow(&self, start: usize, count: usize) -> Result<Self> {
        let cut = |x: &Tensor| -> Result<Tensor> {
            let x = Var::constant(x.clone());
            Ok(Tape::inference().narrow(&x, 1, start, count)?.into_tensor())
        };
        Ok(Self { cos: cut(&self.cos)?, sin: cut(&self.sin)? })
    }

    pub(super) fn check(&self, x: &Tensor) -> Result<()> {
        let &[batch, tokens, _, head_dim] = x.shape() else {
            return Err(shape_error("rope", "x", "[batch, tokens, heads, head_dim]", x.shape()));
        };
        for t in [&self.cos, &self.sin] {
            let s = t.shape();
            if s.len() != 3 || (s[0] != 1 && s[0] != batch) || s[1..] != [tokens, head_dim / 2] {
                return Err(shape_error("rope", "table", format!("[1 or {batch}, {tokens}, {}]", head_dim / 2), s));
            }
        }
        Ok(())
    }

    /// cos and sin of row i of `[batch·tokens]`.
    pub(super) fn angles<'a, T: Stored>(
        &'a self,
        tokens: usize,
    ) -> Result<impl Fn(usize) -> [&'a [T::Compute]; 2] + Sync + use<'a, T>> {
        let (cos, sin) = (self.cos.as_slice::<T::Compute>()?, self.sin.as_slice::<T::Compute>()?);
        let (half, shared) = (self.cos.last_dim(), self.cos.dim(0) == 1);
        Ok(move |i: usize| {
            let at = if shared { i % tokens } else { i } * half;
            [&cos[at..][..half], &sin[at..][..half]]
        })
    }
}

fn rotate<T: Stored>(x: &Tensor, table: &RopeTable, sign: T::Compute) -> Result<Tensor> {
    let (batch, tokens, heads, head_dim) = (x.dim(0), x.dim(1), x.dim(2), x.dim(3));
    let half = head_dim / 2;
    let (cos, sin) = (table.cos.as_slice::<T::Compute>()?, table.sin.as_slice::<T::Compute>()?);
    let xs = x.as_slice::<T>()?;
    let shared = table.cos.dim(0) == 1;
    let row = heads * head_dim;
    let out = parallel::fill(
        batch * tokens,
        row,
        #[inline(always)]
        |i, out| {
            let at = if shared { i % tokens } else { i } * half;
            let (cos, sin) = (&cos[at..][..half], &sin[at..][..half]);
            let x = &xs[i * row..][..row];
            for (out, x) in out.chunks_exact_mut(head_dim).zip(x.chunks_exact(head_dim)) {
                for j in 0..half {
                    let (a, b) = (x[2 * j].load(), x[2 * j + 1].load());
                    let s = sign * sin[j];
                    out[2 * j] = T::store(a * cos[j] - b * s);
                    out[2 * j + 1] = T::store(b * cos[j] + a * s);
                }
            }
        },
    );
    Ok(Tensor::new(out, x.shape()))
}
