//! Linear layers without bias, with an optional low-rank addition in the same operation.

use crate::cpu::gemm::{Multiply, gemm};
use crate::cpu::mat::{Mat, MatMut, Threads, Write};
use crate::cpu::parallel::unfilled;
use crate::cpu::product::Term;
use crate::dtype::{Stored, with_real, with_stored};
use crate::error::{Result, shape_error};
use crate::int8::Side;
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
        let (xs, w) = (x.tensor().clone(), weight.tensor().clone());
        let (a, b) = (lora.a.tensor().to_dtype(T::KIND)?, lora.b.tensor().to_dtype(T::KIND)?);
        let (rank, scale) = (a.dim(0), <T::Compute as crate::Real>::of(lora.scale));
        // scale·x·Aᵀ
        let xa = product::<T, T>(matrix(&xs, d.inputs)?, matrix::<T>(&a, d.inputs)?.t(), scale);
        let value = forward::<T, O>(&xs, &w, Some((&xa, &b)), d)?;
        Ok(self.record(&[x, weight, lora.a, lora.b], value, |needs| {
            move |g: Tensor| {
                let g = g.to_dtype(T::KIND)?;
                let g_mat = matrix::<T>(&g, d.outputs)?;
                // scale·g·B, which both the gradient of A and that of x need.
                let gb = product::<T, T>(g_mat, matrix(&b, rank)?, scale);
                let dx = needs[0].then(|| input_gradient::<T>(&g, &w, Some((&gb, &a)), d, xs.shape())).transpose()?;
                let dw = needs[1].then(|| weight_gradient::<T>(&g, &xs, d)).transpose()?;
                let da = needs[2].then(|| -> Result<_> {
                    let gradient =
                        product::<T, T::Compute>(Mat::new(&gb, d.rows, rank).t(), matrix(&xs, d.inputs)?, one::<T>());
                    Ok(Tensor::new(gradient, &[rank, d.inputs]))
                });
                // (gᵀ·xa) by way of its transpose, whose left matrix is the small one to turn round.
                let db = needs[3].then(|| {
                    let transposed = product::<T, T::Compute>(Mat::new(&xa, d.rows, rank).t(), g_mat, one::<T>());
                    Tensor::new(turned(&transposed, rank, d.outputs), &[d.outputs, rank])
                });
                Ok(vec![dx, dw, da.transpose()?, db])
            }
        }))
    }
}

/// x·Wᵀ + bias, forward only: x `[.., in]`, weight `[out, in]`, bias `[out]`.
///
/// # Errors
/// `SHAPE_MISMATCH` when the extents do not fit.
pub fn linear_bias(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    let d = Dims::of(x, weight, None)?;
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

/// x·Wᵀ, and xa·Bᵀ of a low-rank addition. Before an int8 weight, x is rounded to int8 itself, token by token; the
/// addition is not.
fn forward<'a, T: Multiply, O: Stored<Compute = T::Compute>>(
    x: &Tensor,
    w: &Tensor,
    lora: Option<(&'a [T], &'a Tensor)>,
    d: Dims,
) -> Result<Tensor> {
    let term = |(xa, b): (&'a [T], &'a Tensor)| -> Result<Term<'a, T, T>> {
        let rank = b.dim(1);
        Ok(Term { a: Mat::new(xa, d.rows, rank), b: matrix::<T>(b, rank)?.t().into() })
    };
    let mut y = unfilled::<O>(d.rows * d.outputs);
    let low_rank = lora.map(term).transpose()?;
    combine(&mut y, d.outputs, x.as_slice()?, w, Side::Forward, low_rank, d)?;
    Ok(Tensor::new(y, &d.output_shape(x)))
}

/// g·W, and gb·A of a low-rank addition.
fn input_gradient<'a, T: Multiply>(
    g: &Tensor,
    w: &Tensor,
    lora: Option<(&'a [T], &'a Tensor)>,
    d: Dims,
    shape: &[usize],
) -> Result<Tensor> {
    let term = |(gb, a): (&'a [T], &'a Tensor)| -> Result<Term<'a, T, T>> {
        Ok(Term { a: Mat::new(gb, d.rows, a.dim(0)), b: matrix::<T>(a, d.inputs)?.into() })
    };
    let mut dx = unfilled::<T>(d.rows * d.inputs);
    let low_rank = lora.map(term).transpose()?;
    combine(&mut dx, d.inputs, g.as_slice()?, w, Side::InputGradient, low_rank, d)?;
    Ok(Tensor::new(dx, shape))
}

/// out = x times the weight or its transpose, plus the low-rank term.
fn combine<T: Multiply, O: Stored<Compute = T::Compute>>(
    out: &mut [O],
    cols: usize,
    x: &[T],
    w: &Tensor,
    side: Side,
    low_rank: Option<Term<T, T>>,
    d: Dims,
) -> Result<()> {
    if let Some(weight) = w.int8_rows() {
        let write = if low_rank.is_some() { Write::Add } else { Write::Set };
        if let Some(term) = low_rank {
            T::multiply(MatMut::new(out, cols), Write::Set, one::<T>(), &[term], Threads::All);
        }
        return T::multiply_int8(MatMut::new(out, cols), write, x, weight, side);
    }
    let w = w.to_dtype(T::KIND)?;
    let weight = matrix::<T>(&w, d.inputs)?;
    let term = match side {
        Side::Forward => Term { a: Mat::new(x, d.rows, d.inputs), b: weight.t().into() },
        Side::InputGradient => Term { a: Mat::new(x, d.rows, d.outputs), b: weight.into() },
    };
    let terms: Vec<_> = std::iter::once(term).chain(low_rank).collect();
    T::multiply(MatMut::new(out, cols), Write::Set, one::<T>(), &terms, Threads::All);
    Ok(())
}

/// gᵀ·x, `[out, in]`.
fn weight_gradient<T: Multiply>(g: &Tensor, x: &Tensor, d: Dims) -> Result<Tensor> {
    let gradient = product::<T, T::Compute>(matrix(g, d.outputs)?.t(), matrix(x, d.inputs)?, one::<T>());
    Ok(Tensor::new(gradient, &[d.outputs, d.inputs]))
}

/// scale·a·b.
fn product<T: Multiply, O: Stored<Compute = T::Compute>>(a: Mat<T>, b: Mat<T>, scale: T::Compute) -> Vec<O> {
    let mut c = unfilled(a.rows() * b.cols());
    gemm(MatMut::new(&mut c, b.cols()), Write::Set, scale, a, b, Threads::All);
    c
}

/// The transpose of `[rows, cols]`.
fn turned<T: Copy>(x: &[T], rows: usize, cols: usize) -> Vec<T> {
    (0..cols).flat_map(|j| (0..rows).map(move |i| x[i * cols + j])).collect()
}
