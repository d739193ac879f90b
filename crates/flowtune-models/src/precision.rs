//! Types that a model keeps its weights and computes in.

use flowtune_engine::DType;
use serde::{Deserialize, Serialize};

/// Types of weights and of computation. Sums, norms, softmax, the loss, adapters and optimizers are float32 in each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// Weights and computation in float32.
    #[default]
    Float32,
    /// Weights and computation in bfloat16: for LoRA, whose base does not change.
    Bfloat16,
    /// Weights in float32, computation in bfloat16: for full fine-tuning, whose updates bfloat16 would round away.
    Mixed,
}

impl Precision {
    /// Type of activations, and of the weights as they are multiplied.
    pub fn compute(self) -> DType {
        match self {
            Self::Float32 => DType::F32,
            Self::Bfloat16 | Self::Mixed => DType::BF16,
        }
    }

    /// Type that a weight of this shape is kept in. Weights of norms are few, and stay float32.
    pub fn weight(self, shape: &[usize]) -> DType {
        match (self, shape.len()) {
            (Self::Bfloat16, 2) => DType::BF16,
            _ => DType::F32,
        }
    }
}
