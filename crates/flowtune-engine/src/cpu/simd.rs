//! Loops compiled for the widest vectors of the machine at hand, chosen when it runs: AVX-512, AVX2, NEON or none.
//!
//! The arithmetic is the same in all of them: nothing is contracted or reordered, so results are too.

use std::sync::LazyLock;

use pulp::Arch;

static ARCH: LazyLock<Arch> = LazyLock::new(Arch::new);

/// Runs `f` with vector instructions. Its loops must be in it, or in functions that are inlined into it.
#[inline(always)]
pub(crate) fn vectorised<R>(f: impl FnOnce() -> R) -> R {
    ARCH.dispatch(f)
}
