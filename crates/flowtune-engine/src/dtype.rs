//! Element types.

use candle_core::{CpuStorage, WithDType};

/// Element type of a [`crate::Tensor`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DType {
    /// bfloat16: weights on disk.
    BF16,
    /// IEEE half: weights on disk.
    F16,
    /// The compute type.
    F32,
    /// The type in which gradients are checked.
    F64,
    /// Token and position ids.
    I64,
    /// Integers of a byte with a scale for each row: weights of a frozen model, `[out, in]`.
    I8,
    /// 4-bit NormalFloat with a scale for each 64: weights of a frozen model, `[out, in]`.
    Nf4,
}

impl DType {
    /// Name as PyTorch writes it, without `torch.`.
    pub fn name(self) -> &'static str {
        match self {
            Self::BF16 => "bfloat16",
            Self::F16 => "float16",
            Self::F32 => "float32",
            Self::F64 => "float64",
            Self::I64 => "int64",
            Self::I8 => "int8",
            Self::Nf4 => "nf4",
        }
    }

    /// Bytes of one element by itself.
    pub fn size(self) -> usize {
        self.bytes(1)
    }

    /// Bytes of many, without scales.
    pub fn bytes(self, elements: usize) -> usize {
        match self {
            Self::BF16 | Self::F16 => 2 * elements,
            Self::F32 => 4 * elements,
            Self::F64 | Self::I64 => 8 * elements,
            Self::I8 => elements,
            Self::Nf4 => elements.div_ceil(2),
        }
    }

    /// Whether it stands for numbers together with scales, and is multiplied but not computed with.
    pub fn is_quantised(self) -> bool {
        matches!(self, Self::I8 | Self::Nf4)
    }
}

/// A type that tensors can hold.
pub trait Element: WithDType + bytemuck::Pod {
    /// The matching [`DType`].
    const KIND: DType;
    #[doc(hidden)]
    fn slice_mut(storage: &mut CpuStorage) -> Option<&mut [Self]>;
}

macro_rules! element {
    ($type:ty, $variant:ident) => {
        impl Element for $type {
            const KIND: DType = DType::$variant;
            fn slice_mut(storage: &mut CpuStorage) -> Option<&mut [Self]> {
                match storage {
                    CpuStorage::$variant(data) => Some(data),
                    _ => None,
                }
            }
        }
    };
}
element!(half::bf16, BF16);
element!(half::f16, F16);
element!(f32, F32);
element!(f64, F64);
element!(i64, I64);

/// A floating-point type that kernels compute in: `f32` for work, `f64` for checks.
pub trait Real: Stored<Compute = Self> + num_traits::Float + std::iter::Sum + std::fmt::Debug {
    /// `value` rounded to this type.
    fn of(value: f64) -> Self;
    /// e^self. For `f32` a polynomial that the compiler can vectorise (error below 2 ulp).
    fn exp_fast(self) -> Self;
}

impl Real for f32 {
    #[inline(always)]
    fn of(value: f64) -> Self {
        value as f32
    }

    /// Cody–Waite reduction and the degree-6 polynomial of Cephes `expf`.
    #[inline(always)]
    fn exp_fast(self) -> Self {
        const ROUND: f32 = 12_582_912.0; // 1.5·2^23: adding it rounds to an integer
        let x = self.clamp(-87.3, 88.3);
        let shifted = x * std::f32::consts::LOG2_E + ROUND;
        let n = shifted - ROUND;
        let r = x - n * 0.693_359_4 + n * 2.121_944_4e-4;
        let p = 1.987_569_1e-4;
        let p = p * r + 1.398_2e-3;
        let p = p * r + 8.333_452e-3;
        let p = p * r + 4.166_579_6e-2;
        let p = p * r + 0.166_666_65;
        let p = p * r + 0.5;
        let p = p * r * r + r + 1.0;
        // 2^n by writing n into the exponent; n is in -126..=127 after the clamp.
        p * f32::from_bits((shifted.to_bits() << 23).wrapping_add(0x3f80_0000))
    }
}

impl Real for f64 {
    #[inline(always)]
    fn of(value: f64) -> Self {
        value
    }
    #[inline(always)]
    fn exp_fast(self) -> Self {
        self.exp()
    }
}

/// A type that values are stored in; kernels compute in [`Stored::Compute`].
pub trait Stored: Element + Default + bytemuck::Pod {
    /// What it is computed in.
    type Compute: Real;
    /// The stored value.
    fn load(self) -> Self::Compute;
    /// `value` rounded to what can be stored.
    fn store(value: Self::Compute) -> Self;
}

impl Stored for f32 {
    type Compute = f32;
    #[inline(always)]
    fn load(self) -> f32 {
        self
    }
    #[inline(always)]
    fn store(value: f32) -> Self {
        value
    }
}

impl Stored for f64 {
    type Compute = f64;
    #[inline(always)]
    fn load(self) -> f64 {
        self
    }
    #[inline(always)]
    fn store(value: f64) -> Self {
        value
    }
}

impl Stored for half::bf16 {
    type Compute = f32;
    #[inline(always)]
    fn load(self) -> f32 {
        f32::from_bits(u32::from(self.to_bits()) << 16)
    }

    /// To nearest, ties to even, without a branch so that loops vectorise.
    #[inline(always)]
    fn store(value: f32) -> Self {
        let bits = value.to_bits();
        let rounded = bits.wrapping_add(0x7fff + ((bits >> 16) & 1));
        // Rounding must not turn a NaN into an infinity.
        let bits = if value.is_nan() { bits | 0x0040_0000 } else { rounded };
        Self::from_bits((bits >> 16) as u16)
    }
}

/// Runs `$body` with `$T` standing for the Rust type of a floating `$dtype`.
macro_rules! with_real {
    ($dtype:expr, $op:expr, $T:ident => $body:expr) => {
        match $dtype {
            $crate::DType::F32 => {
                #[allow(unused_imports)] // not every body names a constant of T
                use num_traits::{One as _, Zero as _};
                type $T = f32;
                $body
            }
            $crate::DType::F64 => {
                #[allow(unused_imports)] // as above
                use num_traits::{One as _, Zero as _};
                type $T = f64;
                $body
            }
            other => Err($crate::Error::DType { op: $op, expected: "float32 or float64", got: other.name() }),
        }
    };
}
pub(crate) use with_real;

/// Runs `$body` with `$T` standing for the Rust type in which `$dtype` is stored: [`with_real`], and bfloat16.
macro_rules! with_stored {
    ($dtype:expr, $op:expr, $T:ident => $body:expr) => {
        match $dtype {
            $crate::DType::F32 => {
                type $T = f32;
                $body
            }
            $crate::DType::F64 => {
                type $T = f64;
                $body
            }
            $crate::DType::BF16 => {
                type $T = half::bf16;
                $body
            }
            other => Err($crate::Error::DType { op: $op, expected: "bfloat16, float32 or float64", got: other.name() }),
        }
    };
}
pub(crate) use with_stored;

#[cfg(test)]
mod tests {
    use super::Real;

    #[test]
    fn fast_exp_is_exp() {
        for i in -8_700..8_800 {
            let x = i as f32 * 0.01;
            let want = f64::from(x).exp();
            let got = f64::from(x.exp_fast());
            assert!((got - want).abs() <= 2.5e-7 * want, "exp({x}) = {want}, got {got}");
        }
        assert!((-1e9f32).exp_fast() < 1e-37);
    }
}
