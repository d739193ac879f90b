//! silu, and what loops over elements.

use crate::cpu::parallel;
use crate::dtype::{Real, with_real};
use crate::error::{Result, shape_error};
use crate::tape::{Tape, Var};
use crate::tensor::Tensor;

/// Elements that one call of a row loop handles in operations without rows.
const BLOCK: usize = 4096;

impl Tape {
    /// x · sigmoid(x).
    ///
    /// # Errors
    /// When x is not floating.
    pub fn silu(&self, x: &Var) -> Result<Var> {
        let saved = x.tensor().clone();
        let value = silu(&saved)?;
        Ok(self.record(&[x], value, |_| move |g: Tensor| Ok(vec![Some(silu_backward(&saved, &g)?)])))
    }
}

/// x + y.
pub(crate) fn add_tensors(x: &Tensor, y: &Tensor) -> Result<Tensor> {
    zip("add", x, y, |a, b| a + b, |a, b| a + b)
}

/// x − y.
///
/// # Errors
/// `SHAPE_MISMATCH` when the shapes differ.
pub fn sub(x: &Tensor, y: &Tensor) -> Result<Tensor> {
    zip("sub", x, y, |a, b| a - b, |a, b| a - b)
}

/// factor · x.
///
/// # Errors
/// When x is not floating.
pub fn scale_tensor(x: &Tensor, factor: f64) -> Result<Tensor> {
    with_real!(x.dtype(), "scale", T => {
        let factor = T::of(factor);
        map::<T>(x, |a| a * factor)
    })
}

/// x · sigmoid(x), forward only.
///
/// # Errors
/// When x is not floating.
pub fn silu(x: &Tensor) -> Result<Tensor> {
    with_real!(x.dtype(), "silu", T => map::<T>(x, |a| a * sigmoid(a)))
}

fn silu_backward(x: &Tensor, g: &Tensor) -> Result<Tensor> {
    zip("silu", x, g, silu_gradient::<f32>, silu_gradient::<f64>)
}

/// 1 / (1 + e^−x).
#[inline(always)]
pub(crate) fn sigmoid<T: Real>(x: T) -> T {
    T::one() / (T::one() + (-x).exp_fast())
}

/// g · d silu(x) / dx.
#[inline(always)]
pub(crate) fn silu_gradient<T: Real>(x: T, g: T) -> T {
    let s = sigmoid(x);
    g * s * (T::one() + x * (T::one() - s))
}

/// f of every element.
pub(crate) fn map<T: Real>(x: &Tensor, f: impl Fn(T) -> T + Sync) -> Result<Tensor> {
    let data = x.as_slice::<T>()?;
    let mut out = vec![T::zero(); data.len()];
    parallel::rows(&mut out, BLOCK, |i, out| {
        let x = &data[i * BLOCK..][..out.len()];
        out.iter_mut().zip(x).for_each(|(o, &x)| *o = f(x));
    });
    Ok(Tensor::new(out, x.shape()))
}

/// f of every pair of elements, in the dtype of x.
fn zip(
    op: &'static str,
    x: &Tensor,
    y: &Tensor,
    f: impl Fn(f32, f32) -> f32 + Sync,
    f64: impl Fn(f64, f64) -> f64 + Sync,
) -> Result<Tensor> {
    if x.shape() != y.shape() {
        return Err(shape_error(op, "y", format!("{:?}", x.shape()), y.shape()));
    }
    match x.dtype() {
        crate::DType::F64 => zip_slices(x, y, f64),
        _ => zip_slices(x, y, f),
    }
}

pub(crate) fn zip_slices<T: Real>(x: &Tensor, y: &Tensor, f: impl Fn(T, T) -> T + Sync) -> Result<Tensor> {
    let (a, b) = (x.as_slice::<T>()?, y.as_slice::<T>()?);
    let mut out = vec![T::zero(); a.len()];
    parallel::rows(&mut out, BLOCK, |i, out| {
        let range = i * BLOCK..i * BLOCK + out.len();
        out.iter_mut().zip(&a[range.clone()]).zip(&b[range]).for_each(|((o, &a), &b)| *o = f(a, b));
    });
    Ok(Tensor::new(out, x.shape()))
}
