//! Weights of a frozen base, `[out, in]`, in fewer bits than products take.

mod int8;
mod nf4;

pub(crate) use int8::{Bytes, Int8Product, Int8Rows};
pub(crate) use nf4::Nf4;
pub use nf4::{NF4, NF4_BLOCK};

use std::ops::Range;

use crate::dtype::{DType, Stored};

/// Which product with a weight `[out, in]`.
#[derive(Clone, Copy)]
pub(crate) enum Side {
    /// x·Wᵀ, `[rows, in]` → `[rows, out]`.
    Forward,
    /// x·W, `[rows, out]` → `[rows, in]`.
    InputGradient,
}

/// Some outputs and inputs of a weight.
#[derive(Clone)]
pub(crate) struct Block {
    pub(crate) outputs: Range<usize>,
    pub(crate) inputs: Range<usize>,
}

/// A matrix in fewer bits.
pub(crate) enum Quantised {
    /// Bytes with a scale for each row; what they meet is rounded to bytes too.
    Int8(Int8Rows),
    /// Half bytes with a scale for each 64; made into numbers where they are multiplied.
    Nf4(Nf4),
}

impl Quantised {
    /// `x`, rows of `cols`, in `dtype`; none when that is not one of fewer bits.
    pub(crate) fn of<T: Stored<Compute = f32>>(x: &[T], cols: usize, dtype: DType) -> Option<Self> {
        match dtype {
            DType::I8 => Some(Self::Int8(Int8Rows::quantised(x, cols))),
            DType::Nf4 => Some(Self::Nf4(Nf4::quantised(x, cols))),
            _ => None,
        }
    }

    pub(crate) fn dtype(&self) -> DType {
        match self {
            Self::Int8(_) => DType::I8,
            Self::Nf4(_) => DType::Nf4,
        }
    }

    /// What takes most of the memory.
    #[cfg(feature = "cuda")]
    pub(crate) fn codes(&self) -> &[u8] {
        match self {
            Self::Int8(rows) => bytemuck::cast_slice(&rows.data),
            Self::Nf4(blocks) => &blocks.codes,
        }
    }

    /// The matrix in float32.
    pub(crate) fn dequantised(&self) -> Vec<f32> {
        match self {
            Self::Int8(rows) => rows.dequantised(),
            Self::Nf4(blocks) => blocks.dequantised(),
        }
    }
}
