//! Products of matrices that are both values; linear layers have an operation of their own.

use crate::cpu::gemm::{Multiply, gemm};
use crate::cpu::mat::{Mat, MatMut, Threads, Write};
use crate::device::{self, composed};
use crate::dtype::{Real, with_real};
use crate::error::{Error, Result, shape_error};
use crate::tape::{Tape, Var};
use crate::tensor::Tensor;

/// Extents of a product.
#[derive(Clone, Copy)]
struct Dims {
    batch: usize,
    m: usize,
    k: usize,
    n: usize,
}

impl Tape {
    /// x·y: `[.., m, k]` × `[.., k, n]` → `[.., m, n]`, where y may also be one matrix `[k, n]`.
    ///
    /// # Errors
    /// `SHAPE_MISMATCH` when the extents do not fit.
    pub fn matmul(&self, x: &Var, y: &Var) -> Result<Var> {
        let d = Dims::of(x.tensor(), y.tensor())?;
        let (a, b) = (x.tensor().clone(), y.tensor().clone());
        with_real!(a.dtype(), "matmul", T => {
            let mut shape = a.shape().to_vec();
            shape[a.shape().len() - 1] = d.n;
            let value = forward::<T>(&a, &b, d)?.reshape(&shape)?;
            Ok(self.record(&[x, y], value, |needs| {
                move |g: Tensor| {
                    let dx = needs[0].then(|| left_gradient::<T>(&g, &b, d)).transpose()?;
                    let dy = needs[1].then(|| right_gradient::<T>(&g, &a, d)).transpose()?;
                    let back = |d: Option<Tensor>, x: &Tensor| d.map(|d| d.reshape(x.shape())).transpose();
                    Ok(vec![back(dx, &a)?, back(dy, &b)?])
                }
            }))
        })
    }
}

impl Dims {
    fn of(x: &Tensor, y: &Tensor) -> Result<Self> {
        if x.dtype() != y.dtype() {
            return Err(Error::DType { op: "matmul", expected: x.dtype().name(), got: y.dtype().name() });
        }
        let (&[ref lead @ .., m, k], &[ref y_lead @ .., inner, n]) = (x.shape(), y.shape()) else {
            let narrow = if x.shape().len() < 2 { x } else { y };
            return Err(shape_error("matmul", "operand", "[.., rows, cols]", narrow.shape()));
        };
        let shared = y_lead.is_empty();
        if inner != k || !(shared || y_lead == lead) {
            return Err(shape_error("matmul", "other", format!("[{lead:?} or nothing, {k}, n]"), y.shape()));
        }
        let batch = lead.iter().product();
        // One right matrix: the rows of the whole batch are one left matrix.
        Ok(if shared { Self { batch: 1, m: batch * m, k, n } } else { Self { batch, m, k, n } })
    }
}

fn forward<T: Real + Multiply>(a: &Tensor, b: &Tensor, d: Dims) -> Result<Tensor> {
    if let Some((on, [a, b])) = device::operands("matmul", [a, b])? {
        return device::made(on, composed::matmul(&a, &b, [d.batch, d.m, d.k, d.n]));
    }
    let (a, b) = (a.as_slice::<T>()?, b.as_slice::<T>()?);
    Ok(each::<T>(d.batch, d.m * d.n, |i, out| {
        let (a, b) = (Mat::new(part(a, i, d.m * d.k), d.m, d.k), Mat::new(part(b, i, d.k * d.n), d.k, d.n));
        gemm(MatMut::new(out, d.n), Write::Set, T::one(), a, b, Threads::All);
    }))
}

/// g·yᵀ.
fn left_gradient<T: Real + Multiply>(g: &Tensor, b: &Tensor, d: Dims) -> Result<Tensor> {
    if let Some((on, [g, b])) = device::operands("matmul", [g, b])? {
        return device::made(on, composed::left_gradient(&g, &b, [d.batch, d.m, d.k, d.n]));
    }
    let (g, b) = (g.as_slice::<T>()?, b.as_slice::<T>()?);
    Ok(each::<T>(d.batch, d.m * d.k, |i, out| {
        let (g, b) = (Mat::new(part(g, i, d.m * d.n), d.m, d.n), Mat::new(part(b, i, d.k * d.n), d.k, d.n));
        gemm(MatMut::new(out, d.k), Write::Set, T::one(), g, b.t(), Threads::All);
    }))
}

/// xᵀ·g.
fn right_gradient<T: Real + Multiply>(g: &Tensor, a: &Tensor, d: Dims) -> Result<Tensor> {
    if let Some((on, [g, a])) = device::operands("matmul", [g, a])? {
        return device::made(on, composed::right_gradient(&g, &a, [d.batch, d.m, d.k, d.n]));
    }
    let (g, a) = (g.as_slice::<T>()?, a.as_slice::<T>()?);
    Ok(each::<T>(d.batch, d.k * d.n, |i, out| {
        let (g, a) = (Mat::new(part(g, i, d.m * d.n), d.m, d.n), Mat::new(part(a, i, d.m * d.k), d.m, d.k));
        gemm(MatMut::new(out, d.n), Write::Set, T::one(), a.t(), g, Threads::All);
    }))
}

fn part<T>(data: &[T], i: usize, length: usize) -> &[T] {
    &data[i * length..][..length]
}

/// `[count, length]`, of which f fills each row.
fn each<T: Real + Multiply>(count: usize, length: usize, f: impl Fn(usize, &mut [T])) -> Tensor {
    let mut out = vec![T::zero(); count * length];
    out.chunks_mut(length.max(1)).enumerate().for_each(|(i, out)| f(i, out));
    Tensor::new(out, &[count, length])
}
