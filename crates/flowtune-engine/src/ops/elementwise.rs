//! silu, and what loops over elements.

use crate::cpu::memory;
use crate::cpu::parallel;
use crate::device::{self, Device, composed};
use crate::dtype::{DType, Real, Stored, with_stored};
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

impl Tape {
    /// x in another floating type; the gradient comes back in x's own.
    ///
    /// # Errors
    /// When either type is an integer.
    pub fn cast(&self, x: &Var, dtype: DType) -> Result<Var> {
        let own = x.tensor().dtype();
        if own == dtype {
            return Ok(x.clone());
        }
        let value = x.tensor().to_dtype(dtype)?;
        Ok(self.record(&[x], value, |_| move |g: Tensor| Ok(vec![Some(g.to_dtype(own)?)])))
    }
}

impl Tape {
    /// x on another device; the gradient comes back to x's own.
    ///
    /// # Errors
    /// As [`Tensor::to_device`].
    pub fn to_device(&self, x: &Var, device: &Device) -> Result<Var> {
        let own = x.tensor().device();
        if own == *device {
            return Ok(x.clone());
        }
        let value = x.tensor().to_device(device)?;
        Ok(self.record(&[x], value, |_| move |g: Tensor| Ok(vec![Some(g.to_device(&own)?)])))
    }
}

/// x + y.
pub(crate) fn add_tensors(x: &Tensor, y: &Tensor) -> Result<Tensor> {
    same_shape("add", x, y)?;
    if let Some((on, [x, y])) = device::operands("add", [x, y])? {
        return device::made(on, &x + &y);
    }
    with_stored!(x.dtype(), "add", T => zip_slices::<T>(x, y, |a, b| a + b))
}

/// x − y.
///
/// # Errors
/// `SHAPE_MISMATCH` when the shapes differ.
pub fn sub(x: &Tensor, y: &Tensor) -> Result<Tensor> {
    same_shape("sub", x, y)?;
    if let Some((on, [x, y])) = device::operands("sub", [x, y])? {
        return device::made(on, &x - &y);
    }
    with_stored!(x.dtype(), "sub", T => zip_slices::<T>(x, y, |a, b| a - b))
}

/// factor · x.
///
/// # Errors
/// When x is not floating.
pub fn scale_tensor(x: &Tensor, factor: f64) -> Result<Tensor> {
    if let Some((on, [x])) = device::operands("scale", [x])? {
        return device::made(on, x * factor);
    }
    with_stored!(x.dtype(), "scale", T => {
        let factor = <T as Stored>::Compute::of(factor);
        map::<T>(x, |a| a * factor)
    })
}

/// x · sigmoid(x), forward only.
///
/// # Errors
/// When x is not floating.
pub fn silu(x: &Tensor) -> Result<Tensor> {
    if let Some((on, [x])) = device::operands("silu", [x])? {
        return device::made(on, composed::silu(&x));
    }
    with_stored!(x.dtype(), "silu", T => map::<T>(x, |a| a * sigmoid(a)))
}

fn silu_backward(x: &Tensor, g: &Tensor) -> Result<Tensor> {
    if let Some((on, [x, g])) = device::operands("silu", [x, g])? {
        return device::made(on, composed::silu_backward(&x, &g));
    }
    with_stored!(x.dtype(), "silu", T => zip_slices::<T>(x, g, silu_gradient))
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
pub(crate) fn map<T: Stored>(x: &Tensor, f: impl Fn(T::Compute) -> T::Compute + Sync) -> Result<Tensor> {
    let data = x.as_slice::<T>()?;
    let mut out = memory::unfilled(data.len());
    parallel::rows(
        &mut out,
        BLOCK,
        #[inline(always)]
        |i, out| {
            let x = &data[i * BLOCK..][..out.len()];
            out.iter_mut().zip(x).for_each(|(o, &x)| *o = T::store(f(x.load())));
        },
    );
    Ok(Tensor::new(out, x.shape()))
}

fn same_shape(op: &'static str, x: &Tensor, y: &Tensor) -> Result<()> {
    match x.shape() == y.shape() {
        true => Ok(()),
        false => Err(shape_error(op, "y", format!("{:?}", x.shape()), y.shape())),
    }
}

/// f of every pair of elements.
pub(crate) fn zip_slices<T: Stored>(
    x: &Tensor,
    y: &Tensor,
    f: impl Fn(T::Compute, T::Compute) -> T::Compute + Sync,
) -> Result<Tensor> {
    let (a, b) = (x.as_slice::<T>()?, y.as_slice::<T>()?);
    let mut out = memory::unfilled(a.len());
    parallel::rows(
        &mut out,
        BLOCK,
        #[inline(always)]
        |i, out| {
            let range = i * BLOCK..i * BLOCK + out.len();
            out.iter_mut()
                .zip(&a[range.clone()])
                .zip(&b[range])
                .for_each(|((o, &a), &b)| *o = T::store(f(a.load(), b.load())));
        },
    );
    Ok(Tensor::new(out, x.shape()))
}
