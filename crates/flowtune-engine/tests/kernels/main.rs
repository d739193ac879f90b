//! The kernels, as the emulator runs them, against the operations of the CPU.

mod attention;
mod fixture;
mod grid;
mod huge;
mod loss;
mod norm;
mod norm_rope;
mod optimizer;
mod quant;
mod residual;
mod swiglu;
