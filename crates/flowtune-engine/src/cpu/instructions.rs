//! What of this processor the engine makes use of.

use super::product::{Bf16, F32, Int8, Kind};

/// Which instructions the products of matrices use, by element type: `avx512bf16`, `avx512vnni`, `avx512`, `avx2`, or
/// `portable` for what the compiler makes of plain loops.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Instructions {
    /// f32 · f32.
    pub float32: &'static str,
    /// bf16 · bf16.
    pub bfloat16: &'static str,
    /// int8 · int8.
    pub int8: &'static str,
}

/// The instructions of this machine.
pub fn instructions() -> Instructions {
    Instructions { float32: fastest::<F32>(), bfloat16: fastest::<Bf16>(), int8: fastest::<Int8>() }
}

fn fastest<K: Kind>() -> &'static str {
    K::kernels().first().map_or("none", |(name, _)| name)
}

#[cfg(test)]
mod tests {
    use super::instructions;

    #[test]
    fn are_named_for_every_type() {
        let found = instructions();
        for name in [found.float32, found.bfloat16, found.int8] {
            assert!(["avx512bf16", "avx512vnni", "avx512", "avx2", "portable"].contains(&name), "{name}");
        }
    }

    #[cfg(target_arch = "x86_64")]
    #[test]
    fn are_those_that_the_processor_has() {
        assert_eq!(instructions().float32 == "avx512", is_x86_feature_detected!("avx512f"));
    }
}
