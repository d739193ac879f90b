//! Types that a model keeps its weights and computes in.

use flowtune_engine::DType;
use serde::{Deserialize, Serialize};

/// Type of activations, and of weights unless they are quantised.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ComputeDtype {
    /// 32 bits.
    #[default]
    Float32,
    /// 16 bits, with the range of float32.
    Bfloat16,
}

/// How the weights of a frozen base are made smaller.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Quantization {
    /// Not at all.
    #[default]
    None,
    /// The blocks' weights are bytes with a scale for each output; activations are rounded to bytes token by token when
    /// they meet them.
    Int8,
    /// The blocks' weights are half bytes, 4-bit NormalFloats, with a scale for each 64 of them (QLoRA); they are made into
    /// numbers where they are multiplied.
    Nf4,
}

impl Quantization {
    /// Type that matrices of blocks are kept in; none when they are as they are computed with.
    fn dtype(self) -> Option<DType> {
        match self {
            Self::None => None,
            Self::Int8 => Some(DType::I8),
            Self::Nf4 => Some(DType::Nf4),
        }
    }
}

/// Types of weights and of computation. Sums, norms, the residual stream, softmax, the loss, adapters and optimizers are
/// float32 in each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Precision {
    /// Type of activations, and of weights.
    pub dtype: ComputeDtype,
    /// What the weights of a frozen base are kept in instead.
    pub quantization: Quantization,
    /// Whether the base itself will be trained: its weights then stay in float32, whatever they are multiplied in, for
    /// bfloat16 would round most updates away.
    pub trainable: bool,
}

impl Precision {
    /// Everything in float32.
    pub const FLOAT32: Self = Self { dtype: ComputeDtype::Float32, quantization: Quantization::None, trainable: false };
    /// A frozen base in bfloat16.
    pub const BFLOAT16: Self = Self { dtype: ComputeDtype::Bfloat16, ..Self::FLOAT32 };
    /// A frozen base in int8, activations in bfloat16.
    pub const INT8: Self = Self { quantization: Quantization::Int8, ..Self::BFLOAT16 };
    /// A frozen base in 4-bit NormalFloat, activations in bfloat16.
    pub const NF4: Self = Self { quantization: Quantization::Nf4, ..Self::BFLOAT16 };

    /// Type of activations.
    pub fn compute(self) -> DType {
        match self.dtype {
            ComputeDtype::Float32 => DType::F32,
            ComputeDtype::Bfloat16 => DType::BF16,
        }
    }

    /// Type that a weight is kept in. Those of norms are few and stay float32; those outside the blocks are not quantised,
    /// for all that the blocks see goes through them.
    pub fn weight(self, name: &str, shape: &[usize]) -> DType {
        match (self.trainable, shape.len(), self.quantization.dtype()) {
            (true, ..) => DType::F32,
            (false, 2, Some(fewer_bits)) if is_of_block(name) => fewer_bits,
            (false, 2, _) => self.compute(),
            _ => DType::F32,
        }
    }
}

/// Whether a weight belongs to a block: all but a few per cent of a transformer's do.
pub(crate) fn is_of_block(name: &str) -> bool {
    name.starts_with("transformer_blocks.") || name.starts_with("single_transformer_blocks.")
}
