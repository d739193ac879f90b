//! Arithmetic on tensors, on the calling thread: each operation is recorded if a gradient may flow through it.

use flowtune_engine::{Error as EngineError, Tape, Value, Var, on_this_thread};
use napi_derive::napi;

use crate::error::{Failure, Result, guarded};
use crate::tensor::{Tensor, extents};

type Outcome = std::result::Result<Var, EngineError>;

/// One output from `inputs`.
pub fn compute(inputs: &[&Value], op: impl FnOnce(&Tape, &[Var]) -> Outcome) -> Result<Tensor, Failure> {
    let op = |tape: &Tape, vars: &[Var]| Ok::<_, EngineError>(vec![op(tape, vars)?]);
    let outputs = on_this_thread(|| Value::apply(Tape::new(), inputs, op))?;
    let first = outputs.into_iter().next();
    first.map(Tensor::from).ok_or_else(|| Failure::new("INTERNAL", "an operation gave no output"))
}

/// The names are those of `src/tensor/tensor.ts`, so nobody sees this.
const UNKNOWN: EngineError = EngineError::Tape("there is no such operation");

#[napi]
impl Tensor {
    /// An operation on one tensor, with up to two numbers.
    #[napi]
    pub fn unary(&self, op: String, a: f64, b: f64) -> Result<Tensor> {
        guarded(|| {
            compute(&[&self.value()?], |tape, vars| {
                let x = &vars[0];
                match op.as_str() {
                    "neg" => tape.neg(x),
                    "square" => tape.square(x),
                    "abs" => tape.abs(x),
                    "sqrt" => tape.sqrt(x),
                    "exp" => tape.exp(x),
                    "log" => tape.log(x),
                    "tanh" => tape.tanh(x),
                    "sigmoid" => tape.sigmoid(x),
                    "silu" => tape.silu(x),
                    "clamp" => tape.clamp(x, a, b),
                    "pow" => tape.pow(x, a),
                    "add" => tape.add_scalar(x, a),
                    "mul" => tape.scale(x, a),
                    "div" => tape.div_scalar(x, a),
                    _ => Err(UNKNOWN),
                }
            })
        })
    }

    /// An operation on two tensors whose shapes broadcast as in NumPy.
    #[napi]
    pub fn binary(&self, op: String, other: &Tensor) -> Result<Tensor> {
        guarded(|| {
            compute(&[&self.value()?, &other.value()?], |tape, vars| match op.as_str() {
                "add" => tape.add(&vars[0], &vars[1]),
                "sub" => tape.sub(&vars[0], &vars[1]),
                "mul" => tape.mul(&vars[0], &vars[1]),
                "div" => tape.div(&vars[0], &vars[1]),
                "matmul" => tape.matmul(&vars[0], &vars[1]),
                _ => Err(UNKNOWN),
            })
        })
    }

    /// Sum or mean over dimensions; over all of them when none is named.
    #[napi]
    pub fn reduce(&self, op: String, dims: Option<Vec<u32>>, keep_dims: bool) -> Result<Tensor> {
        guarded(|| {
            let value = self.value()?;
            let all = || (0..value.tensor().shape().len()).collect();
            let dims: Vec<usize> = dims.as_deref().map_or_else(all, extents);
            compute(&[&value], |tape, vars| match op.as_str() {
                "sum" => tape.sum(&vars[0], &dims, keep_dims),
                "mean" => tape.mean(&vars[0], &dims, keep_dims),
                _ => Err(UNKNOWN),
            })
        })
    }

    /// The same elements in another shape.
    #[napi]
    pub fn reshape(&self, shape: Vec<u32>) -> Result<Tensor> {
        guarded(|| compute(&[&self.value()?], |tape, vars| tape.reshape(&vars[0], &extents(&shape))))
    }

    /// Dimensions in another order.
    #[napi]
    pub fn permute(&self, dims: Vec<u32>) -> Result<Tensor> {
        guarded(|| compute(&[&self.value()?], |tape, vars| tape.permute(&vars[0], &extents(&dims))))
    }

    /// `length` entries of a dimension, from `start` on.
    #[napi]
    pub fn narrow(&self, dim: u32, start: u32, length: u32) -> Result<Tensor> {
        guarded(|| {
            let (dim, start, length) = (dim as usize, start as usize, length as usize);
            compute(&[&self.value()?], |tape, vars| tape.narrow(&vars[0], dim, start, length))
        })
    }

    /// Repeated along dimensions of extent 1.
    #[napi]
    pub fn broadcast_to(&self, shape: Vec<u32>) -> Result<Tensor> {
        guarded(|| compute(&[&self.value()?], |tape, vars| tape.broadcast_to(&vars[0], &extents(&shape))))
    }

    /// Tensors one after the other along a dimension.
    #[napi(factory)]
    pub fn cat(tensors: Vec<&Tensor>, dim: u32) -> Result<Tensor> {
        guarded(|| {
            let values = tensors.iter().map(|tensor| tensor.value()).collect::<Result<Vec<_>, _>>()?;
            let inputs: Vec<&Value> = values.iter().collect();
            compute(&inputs, |tape, vars| tape.cat(&vars.iter().collect::<Vec<_>>(), dim as usize))
        })
    }
}
