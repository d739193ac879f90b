//! Linear layers without bias, with an optional low-rank addition in the same operation.

use crate::cpu::gemm::{Mat, MatMut, Threads, Write, gemm};
use crate::dtype::{Real, with_real};
use crate::error::{Result, shape_error};
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
    /// x·Wᵀ, plus scale·(x·Aᵀ)·Bᵀ: x `[.., in]`, weight `[out, in]` → `[.., out]`.
    ///
    /// Frozen weights cost a forward product and one for the gradient of x; nothing is kept for them.
    ///
    /// # Errors
    /// `SHAPE_MISMATCH` when the extents do not fit.
    pub fn linear(&self, x: &Var, weight: &Var, low_rank: Option<LowRank>) -> Result<Var> {
        let dims = Dims::of(x.tensor(), weight.tensor(), low_rank.as_ref())?;
        with_real!(x.tensor().dtype(), "linear", T => match low_rank {
            None => self.plain::<T>(x, weight, dims),
            Some(lora) => self.low_rank::<T>(x, weight, &lora, dims),
        })
    }

    fn plain<T: Real>(&self, x: &Var, weight: &Var, d: Dims) -> Result<Var> {
        let (xs, w) = (x.tensor().clone(), weight.tensor().clone());
        let mut y = vec![T::zero(); d.rows * d.outputs];
        forward::<T>(&mut y, &xs, &w, d)?;
        let value = Tensor::new(y, &d.output_shape(&xs));
        Ok(self.record(&[x, weight], value, |needs| {
            move |g: Tensor| {
                let dx = needs[0].then(|| input_gradient::<T>(&g, &w, d)).transpose()?;
                let dx = dx.map(|dx| Tensor::new(dx, xs.shape()));
                let dw = needs[1].then(|| weight_gradient::<T>(&g, &xs, d)).transpose()?;
                Ok(vec![dx, dw])
            }
        }))
    }

    fn low_rank<T: Real>(&self, x: &Var, weight: &Var, lora: &LowRank, d: Dims) -> Result<Var> {
        let (xs, w) = (x.tensor().clone(), weight.tensor().clone());
        let (a, b) = (lora.a.tensor().clone(), lora.b.tensor().clone());
        let (rank, scale) = (a.dim(0), T::of(lora.scale));
        let mut y = vec![T::zero(); d.rows * d.outputs];
        forward::<T>(&mut y, &xs, &w, d)?;
        let mut xa = vec![T::zero(); d.rows * rank];
        let a_mat = Mat::new(a.as_slice::<T>()?, rank, d.inputs);
        let b_mat = Mat::new(b.as_slice::<T>()?, d.outputs, rank);
        let x_mat = Mat::new(xs.as_slice::<T>()?, d.rows, d.inputs);
        gemm(MatMut::new(&mut xa, rank), Write::Set, T::one(), x_mat, a_mat.t(), Threads::All);
        let xa_mat = Mat::new(&xa, d.rows, rank);
        gemm(MatMut::new(&mut y, d.outputs), Write::Add, scale, xa_mat, b_mat.t(), Threads::All);
        let value = Tensor::new(y, &d.output_shape(&xs));
        Ok(self.record(&[x, weight, lora.a, lora.b], value, |needs| {
            move |g: Tensor| {
                let g_mat = Mat::new(g.as_slice::<T>()?, d.rows, d.outputs);
                let (a_mat, b_mat) =
                    (Mat::new(a.as_slice::<T>()?, rank, d.inputs), Mat::new(b.as_slice::<T>()?, d.outputs, rank));
                // scale·g·B, which both the gradient of A and that of x need.
                let mut gb = vec![T::zero(); d.rows * rank];
                gemm(MatMut::new(&mut gb, rank), Write::Set, scale, g_mat, b_mat, Threads::All);
                let gb_mat = Mat::new(&gb, d.rows, rank);
                let dx = match needs[0] {
                    true => {
                        let mut dx = input_gradient::<T>(&g, &w, d)?;
                        gemm(MatMut::new(&mut dx, d.inputs), Write::Add, T::one(), gb_mat, a_mat, Threads::All);
                        Some(Tensor::new(dx, xs.shape()))
                    }
                    false => None,
                };
                let dw = needs[1].then(|| weight_gradient::<T>(&g, &xs, d)).transpose()?;
                let da = needs[2].then(|| -> Result<_> {
                    let x_mat = Mat::new(xs.as_slice::<T>()?, d.rows, d.inputs);
                    Ok(product(rank, d.inputs, T::one(), gb_mat.t(), x_mat))
                });
                let xa_mat = Mat::new(&xa, d.rows, rank);
                let db = needs[3].then(|| product(d.outputs, rank, scale, g_mat.t(), xa_mat));
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
        let mut y = vec![T::zero(); d.rows * d.outputs];
        forward::<T>(&mut y, x, weight, d)?;
        if let Some(bias) = bias {
            let bias = bias.as_slice::<T>()?;
            for row in y.chunks_mut(d.outputs) {
                row.iter_mut().zip(bias).for_each(|(y, &b)| *y += b);
            }
        }
        Ok(Tensor::new(y, &d.output_shape(x)))
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

fn forward<T: Real>(y: &mut [T], x: &Tensor, w: &Tensor, d: Dims) -> Result<()> {
    let x = Mat::new(x.as_slice::<T>()?, d.rows, d.inputs);
    let w = Mat::new(w.as_slice::<T>()?, d.outputs, d.inputs);
    gemm(MatMut::new(y, d.outputs), Write::Set, T::one(), x, w.t(), Threads::All);
    Ok(())
}

/// g·W, `[rows, in]`.
fn input_gradient<T: Real>(g: &Tensor, w: &Tensor, d: Dims) -> Result<Vec<T>> {
    let g = Mat::new(g.as_slice::<T>()?, d.rows, d.outputs);
    let w = Mat::new(w.as_slice::<T>()?, d.outputs, d.inputs);
    let mut dx = vec![T::zero(); d.rows * d.inputs];
    gemm(MatMut::new(&mut dx, d.inputs), Write::Set, T::one(), g, w, Threads::All);
    Ok(dx)
}

/// gᵀ·x, `[out, in]`.
fn weight_gradient<T: Real>(g: &Tensor, x: &Tensor, d: Dims) -> Result<Tensor> {
    let g = Mat::new(g.as_slice::<T>()?, d.rows, d.outputs);
    let x = Mat::new(x.as_slice::<T>()?, d.rows, d.inputs);
    Ok(product(d.outputs, d.inputs, T::one(), g.t(), x))
}

fn product<T: Real>(rows: usize, cols: usize, scale: T, a: Mat<T>, b: Mat<T>) -> Tensor {
    let mut c = vec![T::zero(); rows * cols];
    gemm(MatMut::new(&mut c, cols), Write::Set, scale, a, b, Threads::All);
    Tensor::new(c, &[rows, cols])
}
