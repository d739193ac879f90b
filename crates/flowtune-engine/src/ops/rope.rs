//! Angles of the rotary position embedding.

use crate::device::Device;
use crate::dtype::Stored;
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

impl RopeTable {
    /// The angles of tokens `start..start + count`.
    ///
    /// # Errors
    /// `SHAPE_MISMATCH` when there are no such tokens.
    pub fn narrow(&self, start: usize, count: usize) -> Result<Self> {
        if (start, count) == (0, self.cos.dim(1)) {
            return Ok(self.clone());
        }
        let cut = |x: &Tensor| -> Result<Tensor> {
            let x = Var::constant(x.clone());
            Ok(Tape::inference().narrow(&x, 1, start, count)?.into_tensor())
        };
        Ok(Self { cos: cut(&self.cos)?, sin: cut(&self.sin)? })
    }

    /// The same angles on `device`.
    ///
    /// # Errors
    /// As [`Tensor::to_device`].
    pub fn to_device(&self, device: &Device) -> Result<Self> {
        Ok(Self { cos: self.cos.to_device(device)?, sin: self.sin.to_device(device)? })
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
