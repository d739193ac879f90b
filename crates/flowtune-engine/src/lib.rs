//! Tensors, the differentiable operations of FLUX.2 and the tape that chains them.
//!
//! candle is the storage, the devices and the oracle of the tests; its types do not leave this crate.
//! Models are written forward only, as calls on a [`Tape`]:
//!
//! ```
//! use flowtune_engine::{Gradients, Param, Tape, Tensor, Var};
//! # fn main() -> flowtune_engine::Result<()> {
//! let weight = Param::trainable("linear.weight", Tensor::from_vec(vec![1f32, 2., 3., 4.], &[2, 2])?);
//! let tape = Tape::new();
//! let x = Var::constant(Tensor::from_vec(vec![1f32, 1.], &[1, 2])?);
//! let y = tape.linear(&x, &tape.param(&weight), None)?;
//! assert_eq!(y.tensor().as_slice::<f32>()?, &[3., 7.]);
//! let mut gradients = Gradients::new();
//! tape.backward(&y, Tensor::full(1f32, &[1, 2]), &[], &mut gradients)?;
//! assert_eq!(gradients.get(&weight).unwrap().as_slice::<f32>()?, &[1., 1., 1., 1.]);
//! # Ok(()) }
//! ```

mod allocator;
mod cpu;
mod device;
mod dtype;
mod error;
mod gradients;
mod graph;
#[cfg(any(feature = "cuda", feature = "emulate"))]
pub mod kernels;
pub mod ops;
mod param;
mod quant;
mod record;
mod saved;
mod tape;
mod tensor;

pub use allocator::TensorAllocator;
pub use cpu::instructions::{Instructions, instructions};
pub use cpu::parallel::{num_threads, on_this_thread, set_num_threads};
pub use device::{Card, Device};
pub use dtype::{DType, Element, Real};
pub use error::{Error, Result};
pub use gradients::Gradients;
pub use graph::Value;
pub use param::{Param, ParamId};
pub use quant::{NF4, NF4_BLOCK};
pub use tape::{Keep, Tape, Var};
pub use tensor::{Tensor, live_bytes};
