//! Arithmetic of two values whose shapes broadcast as in NumPy. What is repeated is never written out.

use candle_core::Tensor as Twin;

use crate::cpu::strided::{self, Walk, repeated};
use crate::device::{self, composed};
use crate::dtype::{Stored, with_real, with_stored};
use crate::error::{Error, Result, shape_error};
use crate::ops::elementwise::scale_tensor;
use crate::ops::reduce::sum_to;
use crate::tape::{Tape, Var};
use crate::tensor::Tensor;

impl Tape {
    /// x + y.
    ///
    /// # Errors
    /// `SHAPE_MISMATCH` when the shapes do not broadcast.
    pub fn add(&self, x: &Var, y: &Var) -> Result<Var> {
        let value =
            with_stored!(x.tensor().dtype(), "add", T => zip::<T>(Pair::Add, x.tensor(), y.tensor(), |a, b| a + b))?;
        let shapes = shapes(x, y);
        Ok(self.record(&[x, y], value, |needs| {
            move |g: Tensor| {
                let of = |i: usize| needs[i].then(|| sum_to(&g, &shapes[i])).transpose();
                Ok(vec![of(0)?, of(1)?])
            }
        }))
    }

    /// x − y.
    ///
    /// # Errors
    /// `SHAPE_MISMATCH` when the shapes do not broadcast.
    pub fn sub(&self, x: &Var, y: &Var) -> Result<Var> {
        let value =
            with_real!(x.tensor().dtype(), "sub", T => zip::<T>(Pair::Sub, x.tensor(), y.tensor(), |a, b| a - b))?;
        let shapes = shapes(x, y);
        Ok(self.record(&[x, y], value, |needs| {
            move |g: Tensor| {
                let dx = needs[0].then(|| sum_to(&g, &shapes[0])).transpose()?;
                let dy = needs[1].then(|| scale_tensor(&sum_to(&g, &shapes[1])?, -1.0));
                Ok(vec![dx, dy.transpose()?])
            }
        }))
    }

    /// x · y, element by element.
    ///
    /// # Errors
    /// `SHAPE_MISMATCH` when the shapes do not broadcast.
    pub fn mul(&self, x: &Var, y: &Var) -> Result<Var> {
        let (a, b) = (x.tensor().clone(), y.tensor().clone());
        with_real!(a.dtype(), "mul", T => {
            let value = zip::<T>(Pair::Mul, &a, &b, |a, b| a * b)?;
            Ok(self.record(&[x, y], value, |needs| {
                move |g: Tensor| {
                    let of = |i: usize, other: &Tensor, own: &Tensor| {
                        needs[i].then(|| sum_to(&zip::<T>(Pair::Mul, &g, other, |g, o| g * o)?, own.shape())).transpose()
                    };
                    Ok(vec![of(0, &b, &a)?, of(1, &a, &b)?])
                }
            }))
        })
    }

    /// x / y, element by element.
    ///
    /// # Errors
    /// `SHAPE_MISMATCH` when the shapes do not broadcast.
    pub fn div(&self, x: &Var, y: &Var) -> Result<Var> {
        let (a, b) = (x.tensor().clone(), y.tensor().clone());
        with_real!(a.dtype(), "div", T => {
            let value = zip::<T>(Pair::Div, &a, &b, |a, b| a / b)?;
            let quotient = value.clone();
            Ok(self.record(&[x, y], value, |needs| {
                move |g: Tensor| {
                    let dx = needs[0].then(|| sum_to(&zip::<T>(Pair::Div, &g, &b, |g, b| g / b)?, a.shape()));
                    let dy = needs[1].then(|| {
                        let gq = zip::<T>(Pair::Mul, &g, &quotient, |g, q| g * q)?;
                        scale_tensor(&sum_to(&zip::<T>(Pair::Div, &gq, &b, |gq, b| gq / b)?, b.shape())?, -1.0)
                    });
                    Ok(vec![dx.transpose()?, dy.transpose()?])
                }
            }))
        })
    }

    /// x repeated along dimensions of extent 1, and along new ones in front.
    ///
    /// # Errors
    /// `SHAPE_MISMATCH` when x does not broadcast to `shape`.
    pub fn broadcast_to(&self, x: &Var, shape: &[usize]) -> Result<Var> {
        let value = broadcast_to(x.tensor(), shape)?;
        let before = x.tensor().shape().to_vec();
        Ok(self.record(&[x], value, |_| move |g: Tensor| Ok(vec![Some(sum_to(&g, &before)?)])))
    }
}

fn shapes(x: &Var, y: &Var) -> [Vec<usize>; 2] {
    [x.tensor().shape().to_vec(), y.tensor().shape().to_vec()]
}

/// x repeated to `shape`, forward only.
pub(crate) fn broadcast_to(x: &Tensor, shape: &[usize]) -> Result<Tensor> {
    if joint_shape(x.shape(), shape).as_deref() != Some(shape) {
        return Err(shape_error("broadcast_to", "x", format!("that broadcasts to {shape:?}"), x.shape()));
    }
    if let Some((on, [x])) = device::operands("broadcast_to", [x])? {
        return device::made(on, composed::broadcast_to(&x, shape));
    }
    with_real!(x.dtype(), "broadcast_to", T => {
        let walk = Walk::new(shape, [repeated(x.shape(), shape)]);
        Ok(Tensor::new(strided::copy(x.as_slice::<T>()?, &walk), shape))
    })
}

/// The shape that both broadcast to.
fn joint_shape(a: &[usize], b: &[usize]) -> Option<Vec<usize>> {
    let rank = a.len().max(b.len());
    let extent = |shape: &[usize], i: usize| (i + shape.len()).checked_sub(rank).map_or(1, |i| shape[i]);
    (0..rank)
        .map(|i| match (extent(a, i), extent(b, i)) {
            (x, y) if x == y || y == 1 => Some(x),
            (1, y) => Some(y),
            _ => None,
        })
        .collect()
}

/// What becomes of two elements.
#[derive(Clone, Copy)]
enum Pair {
    Add,
    Sub,
    Mul,
    Div,
}

impl Pair {
    fn name(self) -> &'static str {
        match self {
            Self::Add => "add",
            Self::Sub => "sub",
            Self::Mul => "mul",
            Self::Div => "div",
        }
    }

    fn composed(self, x: &Twin, y: &Twin) -> candle_core::Result<Twin> {
        match self {
            Self::Add => x.broadcast_add(y),
            Self::Sub => x.broadcast_sub(y),
            Self::Mul => x.broadcast_mul(y),
            Self::Div => x.broadcast_div(y),
        }
    }
}

/// f, which is what `pair` names, of elements whose places meet.
fn zip<T: Stored>(
    pair: Pair,
    x: &Tensor,
    y: &Tensor,
    f: impl Fn(T::Compute, T::Compute) -> T::Compute + Sync,
) -> Result<Tensor> {
    let op = pair.name();
    let wrong = || shape_error(op, "other", format!("that broadcasts with {:?}", x.shape()), y.shape());
    if x.dtype() != y.dtype() {
        return Err(Error::DType { op, expected: x.dtype().name(), got: y.dtype().name() });
    }
    let shape = joint_shape(x.shape(), y.shape()).ok_or_else(wrong)?;
    if let Some((on, [x, y])) = device::operands(op, [x, y])? {
        return device::made(on, pair.composed(&x, &y));
    }
    let walk = Walk::new(&shape, [repeated(x.shape(), &shape), repeated(y.shape(), &shape)]);
    Ok(Tensor::new(strided::zip(x.as_slice::<T>()?, y.as_slice::<T>()?, &walk, f), &shape))
}
