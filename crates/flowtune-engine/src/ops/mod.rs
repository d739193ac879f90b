//! The operations. Those that training needs are methods of [`crate::Tape`], each with its backward; those
//! that only the VAE and the text encoders need are functions of tensors, forward only.

pub mod attention;
mod broadcast;
pub mod causal_attention;
pub mod conv;
pub mod elementwise;
pub mod embedding;
pub mod group_norm;
pub mod layout;
pub mod linear;
pub mod loss;
mod matmul;
pub mod norm;
mod norm_rope;
pub mod optimizer;
mod reduce;
pub mod residual;
pub mod rope;
pub mod swiglu;
pub mod timestep;
mod unary;
pub mod upsample;

#[cfg(test)]
mod check;
