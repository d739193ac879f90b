//! Linear layers without bias, with an optional low-rank addition in the same operation.

use candle_core::{DType as Kind, Tensor as Twin};

use crate::cpu::gemm::Multiply;
use crate::cpu::mat::{Mat, MatMut, Threads, Write};
use crate::cpu::memory::unfilled;
use crate::cpu::parallel;
use crate::cpu::product::{Right, Term};
use crate::device::{self, Kernels, Weight, composed};
use crate::dtype::{Element, Stored, with_real, with_stored};
use crate::error::{Error, Result, shape_error};
use crate::ops::parts::{Factor, Parts, joined};
use crate::quant::{Quantised, Side};
use crate::tape::{Tape, Var};
use crate::tensor::Tensor;

/// A low-rank addition scale·B·A to a linear layer (LoRA, arXiv:2106.09685).
#[derive(Debug)]
pub struct LowRank<'a> {
    /// A, `[rank, in]`.
    pub a: &'a Var,
    /// B, `[out, rank]`.
    pub b: &'a Var,
    /// alpha / rank.
    pub scale: f64,
}

impl Tape {
    /// x·Wᵀ, plus scale·(x·Aᵀ)·Bᵀ: x `[.., in]`, weight `[out, in]` → `[.., out]`, in the type of x. Weights may be wider
    /// (float32 masters of a bfloat16 computation); they are rounded for the product, and their gradients are sums in
    /// float32.
    ///
    /// Frozen weights cost a forward product and one for the gradient of x; nothing is kept for them.
    ///
    /// # Errors
    /// `SHAPE_MISMATCH` when the extents do not fit.
    pub fn linear(&self, x: &Var, weight: &Var, low_rank: Option<LowRank>) -> Result<Var> {
        let dims = Dims::of(x.tensor(), weight.tensor(), low_rank.as_ref())?;
        with_stored!(x.tensor().dtype(), "linear", T => match low_rank {
            None => self.plain::<T, T>(x, weight, dims),
            Some(lora) => self.low_rank::<T, T>(x, weight, &lora, dims),
        })
    }

    /// As [`Tape::linear`], but sums in float32 stay so when x is bfloat16.
    ///
    /// # Errors
    /// As [`Tape::linear`].
    pub fn linear_wide(&self, x: &Var, weight: &Var, low_rank: Option<LowRank>) -> Result<Var> {
        let dims = Dims::of(x.tensor(), weight.tensor(), low_rank.as_ref())?;
        with_stored!(x.tensor().dtype(), "linear", T => match low_rank {
            None => self.plain::<T, <T as Stored>::Compute>(x, weight, dims),
            Some(lora) => self.low_rank::<T, <T as Stored>::Compute>(x, weight, &lora, dims),
        })
    }

    fn plain<T: Multiply, O: Stored<Compute = T::Compute>>(&self, x: &Var, weight: &Var, d: Dims) -> Result<Var> {
        let (xs, w) = (x.tensor().clone(), weight.tensor().clone());
        if let Some(on_device) = OnDevice::of(x, weight, None)? {
            return self.on_device(on_device, &[x, weight], O::DTYPE, d);
        }
        let value = forward::<T, O>(&xs, &w, None, d)?;
        Ok(self.record(&[x, weight], value, |needs| {
            // What only the gradient of the weight needs is not kept for a frozen one.
            let x_shape = xs.shape().to_vec();
            let saved = needs[1].then_some(xs);
            move |g: Tensor| {
                let g = g.to_dtype(T::KIND)?;
                let dx = needs[0].then(|| input_gradient::<T>(&g, &w, None, d, &x_shape)).transpose()?;
                let dw = saved.map(|xs| weight_gradient::<T>(&g, &xs, d)).transpose()?;
                Ok(vec![dx, dw])
            }
        }))
    }

    fn low_rank<T: Multiply, O: Stored<Compute = T::Compute>>(
        &self,
        x: &Var,
        weight: &Var,
        lora: &LowRank,
        d: Dims,
    ) -> Result<Var> {
        if let Some(on_device) = OnDevice::of(x, weight, Some(lora))? {
            return self.on_device(on_device, &[x, weight, lora.a, lora.b], O::DTYPE, d);
        }
        let (xs, w) = (x.tensor().clone(), weight.tensor().clone());
        let adapter = Adapter::<T>::of(lora, d)?;
        // scale·x·Aᵀ
        let xa = adapter.narrow(matrix(&xs, d.inputs)?, adapter.a_once().t());
        let value = forward::<T, O>(&xs, &w, Some(term(xa.all(), adapter.b.all().t())), d)?;
        Ok(self.record(&[x, weight, lora.a, lora.b], value, |needs| {
            move |g: Tensor| {
                let g = g.to_dtype(T::KIND)?;
                let (x_mat, g_mat) = (matrix::<T>(&xs, d.inputs)?, matrix::<T>(&g, d.outputs)?);
                // scale·g·B, which both the gradient of A and that of x need.
                let gb = adapter.narrow(g_mat, adapter.b.once());
                let low_rank = Some(term(gb.all(), adapter.a_all()));
                let dx = needs[0].then(|| input_gradient::<T>(&g, &w, low_rank, d, xs.shape())).transpose()?;
                let dw = needs[1].then(|| weight_gradient::<T>(&g, &xs, d)).transpose()?;
                // Roundings do here: they meet what is rounded itself, and all tokens are summed.
                let da = needs[2].then(|| sum(term(gb.rounded().t(), x_mat), one::<T>()));
                // gᵀ·xa by way of its transpose: the small matrix is the one to turn round.
                let db =
                    needs[3].then(|| turned(&sum(term(xa.rounded().t(), g_mat), one::<T>()), adapter.rank, d.outputs));
                let [da_shape, db_shape] = [[adapter.rank, d.inputs], [d.outputs, adapter.rank]];
                Ok(vec![dx, dw, da.map(|da| Tensor::new(da, &da_shape)), db.map(|db| Tensor::new(db, &db_shape))])
            }
        }))
    }
}

/// The matrices of a low-rank addition, for products with activations in T.
struct Adapter<T: Stored> {
    rank: usize,
    inputs: usize,
    scale: T::Compute,
    /// All of A as one row, so that its parts lie one below the other.
    a: Parts<T>,
    b: Parts<T>,
}

impl<T: Multiply> Adapter<T> {
    fn of(lora: &LowRank, d: Dims) -> Result<Self> {
        let wide = |x: &Var| x.tensor().to_dtype(<T::Compute as Element>::KIND);
        let (a, b) = (wide(lora.a)?, wide(lora.b)?);
        Ok(Self {
            rank: b.last_dim(),
            inputs: d.inputs,
            scale: <T::Compute as crate::Real>::of(lora.scale),
            a: Parts::of(a.as_slice()?, a.len(), Factor::Right),
            b: Parts::of(b.as_slice()?, b.last_dim(), Factor::Right),
        })
    }

    /// `[parts side by side·rank, in]`
    fn a_all(&self) -> Mat<'_, T> {
        self.below(self.a.all())
    }

    /// `[parts·rank, in]`
    fn a_once(&self) -> Mat<'_, T> {
        self.below(self.a.once())
    }

    /// The row of A's parts as rows.
    fn below<'a>(&self, row: Mat<'a, T>) -> Mat<'a, T> {
        Mat::new(row.row(0), row.cols() / self.inputs.max(1), self.inputs)
    }

    /// scale·x·factor, the parts of the factor side by side: `[rows, rank]`, as a left factor.
    fn narrow(&self, x: Mat<T>, factor: Mat<T>) -> Parts<T> {
        Parts::of(&joined::<T>(sum(term(x, factor), self.scale), self.rank), self.rank, Factor::Left)
    }
}

/// A linear layer whose operands are on a device.
struct OnDevice {
    kernels: Kernels,
    /// `[rows, in]`; none once it is known that no gradient needs it.
    x: Option<Twin>,
    dtype: Kind,
    weight: Weight,
    low_rank: Option<composed::LowRank>,
}

impl OnDevice {
    fn of(x: &Var, weight: &Var, low_rank: Option<&LowRank>) -> Result<Option<Self>> {
        let Some((kernels, x, weight)) = operands(x.tensor(), weight.tensor())? else { return Ok(None) };
        let low_rank = match low_rank {
            None => None,
            Some(LowRank { a, b, scale }) => {
                let Some((_, [a, b])) = device::operands(OP, [a.tensor(), b.tensor()])? else {
                    return Err(Error::Device { op: OP });
                };
                Some(composed::LowRank::new(&a, &b, *scale, x.dtype())?)
            }
        };
        Ok(Some(Self { kernels, dtype: x.dtype(), x: Some(x), weight, low_rank }))
    }
}

const OP: &str = "linear";

/// The rows of x and the weight, when x is on a device. The weight may rest on the host.
fn operands(x: &Tensor, weight: &Tensor) -> Result<Option<(Kernels, Twin, Weight)>> {
    match device::operands(OP, [x])? {
        Some((kernels, [x])) => Ok(Some((kernels, as_rows(&x)?, Weight::of(OP, weight, kernels)?))),
        None if weight.device().is_cpu() => Ok(None),
        None => Err(Error::Device { op: OP }),
    }
}

/// The last dimension as columns, all others as rows.
fn as_rows(x: &Twin) -> candle_core::Result<Twin> {
    x.reshape(((), x.dim(candle_core::D::Minus1)?))
}

impl Tape {
    fn on_device(&self, mut layer: OnDevice, inputs: &[&Var], out: Kind, d: Dims) -> Result<Var> {
        let Some(x) = &layer.x else { return Err(Error::Device { op: OP }) };
        let on = layer.kernels;
        let value = device::linear(on, x, &layer.weight, layer.low_rank.as_ref(), out)?;
        let x_shape = inputs[0].tensor().shape().to_vec();
        let value = value.reshape(&d.output_shape(inputs[0].tensor()))?;
        Ok(self.record(inputs, value, |needs| {
            // What only gradients of weights need is not kept for frozen ones.
            layer.x = layer.x.filter(|_| needs[1..].contains(&true));
            move |g: Tensor| {
                let Some((_, [g])) = device::operands(OP, [&g])? else { return Err(Error::Device { op: OP }) };
                let g = as_rows(&g)?.to_dtype(layer.dtype)?;
                let OnDevice { x, weight, low_rank, .. } = &layer;
                let mut gradients = device::linear_backward(on, x.as_ref(), weight, low_rank.as_ref(), &g, &needs)?;
                gradients[0] = gradients[0].take().map(|dx| dx.reshape(&x_shape)).transpose()?;
                Ok(gradients)
            }
        }))
    }
}

type Product<'a, T> = Term<'a, T, T>;

fn term<'a, T>(a: Mat<'a, T>, b: Mat<'a, T>) -> Product<'a, T> {
    Term { a, b: b.into() }
}

/// scale·a·b.
fn sum<T: Multiply>(product: Product<T>, scale: T::Compute) -> Vec<T::Compute> {
    let (rows, cols) = (product.a.rows(), product.b.cols());
    let mut c = unfilled(rows * cols);
    T::multiply(MatMut::new(&mut c, cols), Write::Set, scale, &[product], Threads::All);
    c
}

/// x·Wᵀ + bias, forward only: x `[.., in]`, weight `[out, in]`, bias `[out]`.
///
/// # Errors
/// `SHAPE_MISMATCH` when the extents do not fit.
pub fn linear_bias(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    let d = Dims::of(x, weight, None)?;
    if let Some((on, rows, weight)) = operands(x, weight)? {
        let y = device::linear(on, &rows, &weight, None, rows.dtype())?.reshape(&d.output_shape(x))?;
        let (Some(bias), Some(y)) = (device::optional(OP, bias)?, y.on_device()?) else { return Ok(y) };
        return device::made(on, y.twin.broadcast_add(&bias));
    }
    with_real!(x.dtype(), "linear", T => {
        let mut y = forward::<T, T>(x, weight, None, d)?;
        if let Some(bias) = bias {
            let bias = bias.as_slice::<T>()?;
            for row in y.as_mut_slice::<T>()?.chunks_mut(d.outputs) {
                row.iter_mut().zip(bias).for_each(|(y, &b)| *y += b);
            }
        }
        Ok(y)
    })
}

/// Extents of one linear layer.
#[derive(Clone, Copy)]
struct Dims {
    rows: usize,
    inputs: usize,
    outputs: usize,
}

impl Dims {
    fn of(x: &Tensor, weight: &Tensor, lora: Option<&LowRank>) -> Result<Self> {
        let inputs = x.last_dim();
        let &[outputs, columns] = weight.shape() else {
            return Err(shape_error("linear", "weight", "[out, in]", weight.shape()));
        };
        if columns != inputs {
            return Err(shape_error("linear", "weight", format!("[out, {inputs}]"), weight.shape()));
        }
        if let Some(LowRank { a, b, .. }) = lora {
            let (a, b) = (a.tensor().shape(), b.tensor().shape());
            if a.len() != 2 || a[1] != inputs {
                return Err(shape_error("linear", "lora_A", format!("[rank, {inputs}]"), a));
            }
            if b != [outputs, a[0]] {
                return Err(shape_error("linear", "lora_B", format!("[{outputs}, {}]", a[0]), b));
            }
        }
        Ok(Self { rows: x.len() / inputs.max(1), inputs, outputs })
    }

    fn output_shape(self, x: &Tensor) -> Vec<usize> {
        let mut shape = x.shape().to_vec();
        if let Some(last) = shape.last_mut() {
            *last = self.outputs;
        }
        shape
    }
}

/// The rows of a tensor of `cols` columns.
fn matrix<T: Stored>(x: &Tensor, cols: usize) -> Result<Mat<'_, T>> {
    Ok(Mat::new(x.as_slice::<T>()?, x.len() / cols.max(1), cols))
}

fn one<T: Stored>() -> T::Compute {
    num_traits::One::one()
}

/// x·Wᵀ, and the low-rank term. Before an int8 weight, x is rounded to int8 itself, token by token; the low-rank term
/// is not.
fn forward<T: Multiply, O: Stored<Compute = T::Compute>>(
    x: &Tensor,
    w: &Tensor,
    low_rank: Option<Product<T>>,
    d: Dims,
) -> Result<Tensor> {
    let mut y = unfilled::<O>(d.rows * d.outputs);
    combine(MatMut::new(&mut y, d.outputs), x.as_slice::<T>()?, w, Side::Forward, low_rank, d)?;
    Ok(Tensor::new(y, &d.output_shape(x)))
}

/// g·W, and the low-rank term.
fn input_gradient<T: Multiply>(
    g: &Tensor,
    w: &Tensor,
    low_rank: Option<Product<T>>,
    d: Dims,
    shape: &[usize],
) -> Result<Tensor> {
    let mut dx = unfilled::<T>(d.rows * d.inputs);
    combine(MatMut::new(&mut dx, d.inputs), g.as_slice::<T>()?, w, Side::InputGradient, low_rank, d)?;
    Ok(Tensor::new(dx, shape))
}

/// out = x times the weight or its transpose, plus the low-rank term.
fn combine<T: Multiply, O: Stored<Compute = T::Compute>>(
    mut out: MatMut<O>,
    x: &[T],
    w: &Tensor,
    side: Side,
    low_rank: Option<Product<T>>,
    d: Dims,
) -> Result<()> {
    let (made, cast);
    let right = match w.quantised_on_host() {
        Some(Quantised::Int8(weight)) => {
            let Some(low_rank) = low_rank else { return T::multiply_int8(out, Write::Set, x, weight, side) };
            let rows = out.rows();
            T::multiply(out.slice_rows(0, rows), Write::Set, one::<T>(), &[low_rank], Threads::All);
            return T::multiply_int8(out, Write::Add, x, weight, side);
        }
        Some(Quantised::Nf4(weight)) => {
            made = weight.side(side);
            Right::Made(&made)
        }
        None => {
            cast = w.to_dtype(T::KIND)?;
            let weight = matrix::<T>(&cast, d.inputs)?;
            match side {
                Side::Forward => weight.t().into(),
                Side::InputGradient => weight.into(),
            }
        }
    };
    let inner = match side {
        Side::Forward => d.inputs,
        Side::InputGradient => d.outputs,
    };
    let base = Term { a: Mat::new(x, d.rows, inner), b: right };
    let terms: Vec<_> = std::iter::once(base).chain(low_rank).collect();
    T::multiply(out, Write::Set, one::<T>(), &terms, Threads::All);
    Ok(())
}

/// gᵀ·x, `[out, in]`.
fn weight_gradient<T: Multiply>(g: &Tensor, x: &Tensor, d: Dims) -> Result<Tensor> {
    let gradient = sum(term(matrix::<T>(g, d.outputs)?.t(), matrix(x, d.inputs)?), one::<T>());
    Ok(Tensor::new(gradient, &[d.outputs, d.inputs]))
}

/// The transpose of `[rows, cols]`.
fn turned<T: Stored>(x: &[T], rows: usize, cols: usize) -> Vec<T> {
    parallel::fill(
        cols,
        rows,
        #[inline(always)]
        |j, out| out.iter_mut().enumerate().for_each(|(i, out)| *out = x[i * cols + j]),
    )
}
