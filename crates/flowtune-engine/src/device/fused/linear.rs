//! Linear layers by cuBLAS: operands in the type of the activations, sums in float32, and no copy of either.
//!
//! What adapters add is as exact as on the CPU: their float32 matrices are the sum of two in bfloat16, so that the products
//! remain those of tensor cores.

use candle_core::{DType, Result as Composed, Tensor, WithDType};

use super::launched;
use super::place::{Place, Room, input};
use crate::device::Kernels;
use crate::device::composed::LowRank;
use crate::error::Result;
use crate::kernels::{Factor, Layout, Value, product};

/// As [`crate::device::composed::linear`].
pub(crate) fn linear(
    kernels: Kernels,
    x: &Tensor,
    weight: &Tensor,
    low_rank: Option<&LowRank>,
    dtype: DType,
) -> Option<Result<Tensor>> {
    launched!(kernels, x, x.dtype(), on, T => match dtype == x.dtype() {
        true => forward::<_, T, T>(on, x, weight, low_rank),
        false => forward::<_, T, f32>(on, x, weight, low_rank),
    })
}

/// As [`crate::device::composed::linear_backward`].
pub(crate) fn linear_backward(
    kernels: Kernels,
    x: Option<&Tensor>,
    weight: &Tensor,
    low_rank: Option<&LowRank>,
    g: &Tensor,
    needs: &[bool],
) -> Option<Result<Vec<Option<Tensor>>>> {
    launched!(kernels, g, g.dtype(), on, T => backward::<_, T>(on, x, weight, low_rank, g, needs))
}

fn forward<L: Place, T: Value + WithDType, O: Value + WithDType>(
    on: &L,
    x: &Tensor,
    weight: &Tensor,
    low_rank: Option<&LowRank>,
) -> Result<Tensor> {
    let (x, weight) = (Side::of(x), weight.to_dtype(T::DTYPE)?);
    let mut y = Sum::<O>::new(on, x.rows(), weight.dim(0)?)?;
    if let Some(low_rank) = low_rank {
        let xa = small::<_, T>(on, x, Side::of(&low_rank.a).t(), low_rank.scale)?;
        let (left, right) = cross(&parts::<T>(&xa)?, &parts::<T>(&low_rank.b)?, 1)?;
        y.add::<_, T>(on, Side::of(&left), Side::of(&right).t())?;
    }
    y.add::<_, T>(on, x, Side::of(&weight).t())?;
    Ok(y.tensor())
}

/// Gradients of x, the weight, A and B, those that are needed; of matrices, where x is kept.
fn backward<L: Place, T: Value + WithDType>(
    on: &L,
    x: Option<&Tensor>,
    weight: &Tensor,
    low_rank: Option<&LowRank>,
    g: &Tensor,
    needs: &[bool],
) -> Result<Vec<Option<Tensor>>> {
    let (g, mut gradients) = (Side::of(g), vec![None; needs.len()]);
    // scale·g·B, which both the gradient of A and that of x need.
    let gb = |of: &LowRank| small::<_, T>(on, g, Side::of(&of.b), of.scale);
    let gb = low_rank.filter(|_| needs[0] || needs[2]).map(gb).transpose()?;
    if needs[0] {
        let weight = weight.to_dtype(T::DTYPE)?;
        let mut dx = Sum::<T>::new(on, g.rows(), weight.dim(1)?)?;
        if let (Some(gb), Some(of)) = (&gb, low_rank) {
            let (left, right) = cross(&parts::<T>(gb)?, &parts::<T>(&of.a)?, 0)?;
            dx.add::<_, T>(on, Side::of(&left), Side::of(&right))?;
        }
        dx.add::<_, T>(on, g, Side::of(&weight))?;
        gradients[0] = Some(dx.tensor());
    }
    let Some(x) = x.map(Side::of) else { return Ok(gradients) };
    if needs[1] {
        gradients[1] = Some(times::<_, T>(on, g.t(), x)?);
    }
    let Some(of) = low_rank else { return Ok(gradients) };
    if let Some(gb) = gb.filter(|_| needs[2]) {
        let parts = Tensor::cat(&parts::<T>(&gb)?, 1)?;
        gradients[2] = Some(joined(&times::<_, T>(on, Side::of(&parts).t(), x)?, 0, of.a.dim(0)?)?);
    }
    if needs[3] {
        let xa = small::<_, T>(on, x, Side::of(&of.a).t(), of.scale)?;
        let parts = Tensor::cat(&parts::<T>(&xa)?, 1)?;
        gradients[3] = Some(joined(&times::<_, T>(on, g.t(), Side::of(&parts))?, 1, of.a.dim(0)?)?);
    }
    Ok(gradients)
}

/// A matrix as one side of a product.
#[derive(Clone, Copy)]
struct Side<'a> {
    matrix: &'a Tensor,
    transposed: bool,
}

impl<'a> Side<'a> {
    fn of(matrix: &'a Tensor) -> Self {
        Self { matrix, transposed: false }
    }

    fn t(self) -> Self {
        Self { transposed: !self.transposed, ..self }
    }

    fn layout(self) -> Layout {
        let layout = Layout::whole(self.matrix.dims()[0], self.matrix.dims()[1]);
        if self.transposed { layout.t() } else { layout }
    }

    fn rows(self) -> usize {
        self.matrix.dims()[usize::from(self.transposed)]
    }

    fn cols(self) -> usize {
        self.matrix.dims()[usize::from(!self.transposed)]
    }
}

/// A sum of products.
struct Sum<O> {
    room: Room<O>,
    extents: [usize; 2],
    begun: bool,
}

impl<O: Value + WithDType> Sum<O> {
    fn new<L: Place>(on: &L, rows: usize, cols: usize) -> Result<Self> {
        Ok(Self { room: Room::new(on, rows * cols)?, extents: [rows, cols], begun: false })
    }

    fn add<L: Place, T: Value + WithDType>(&mut self, on: &L, a: Side, b: Side) -> Result<()> {
        let (left, right) = (input::<_, T>(on, a.matrix)?, input::<_, T>(on, b.matrix)?);
        let [rows, cols] = self.extents;
        let out = (&mut self.room.view_mut(), Layout::whole(rows, cols));
        let factor = Factor { scale: 1.0, add: std::mem::replace(&mut self.begun, true) };
        product(on, (&left.view, a.layout()), (&right.view, b.layout()), out, 1, factor)
    }

    fn tensor(self) -> Tensor {
        self.room.tensor(&self.extents)
    }
}

/// a·b in float32.
fn times<L: Place, T: Value + WithDType>(on: &L, a: Side, b: Side) -> Result<Tensor> {
    let mut sum = Sum::<f32>::new(on, a.rows(), b.cols())?;
    sum.add::<_, T>(on, a, b)?;
    Ok(sum.tensor())
}

/// scale·x·m in float32, of a float32 matrix with few columns.
fn small<L: Place, T: Value + WithDType>(on: &L, x: Side, m: Side, scale: f64) -> Result<Tensor> {
    let along = usize::from(!m.transposed);
    let both = Tensor::cat(&parts::<T>(m.matrix)?, along)?;
    let product = times::<_, T>(on, x, Side { matrix: &both, ..m })?;
    Ok((joined(&product, 1, m.cols())? * scale)?)
}

/// A float32 matrix as a sum in T: itself, or its rounding and the rounding of what that leaves.
fn parts<T: WithDType>(x: &Tensor) -> Composed<Vec<Tensor>> {
    let rounded = x.to_dtype(T::DTYPE)?;
    if T::DTYPE == x.dtype() {
        return Ok(vec![rounded]);
    }
    let rest = (x - rounded.to_dtype(x.dtype())?)?.to_dtype(T::DTYPE)?;
    Ok(vec![rounded, rest])
}

/// The product of two sums, without that of the remainders, as a product of two matrices: left ones side by side, right
/// ones along `dim`.
fn cross(left: &[Tensor], right: &[Tensor], dim: usize) -> Composed<(Tensor, Tensor)> {
    match (left, right) {
        ([a, a_rest], [b, b_rest]) => Ok((Tensor::cat(&[a, a, a_rest], 1)?, Tensor::cat(&[b, b_rest, b], dim)?)),
        _ => Ok((Tensor::cat(left, 1)?, Tensor::cat(right, dim)?)),
    }
}

/// The sum of the parts of a product, `extent` of each along `dim`.
fn joined(x: &Tensor, dim: usize, extent: usize) -> Composed<Tensor> {
    match x.dim(dim)? == extent {
        true => Ok(x.clone()),
        false => x.narrow(dim, 0, extent)? + x.narrow(dim, extent, extent)?,
    }
}
