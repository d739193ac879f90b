//! A linear layer that can carry a low-rank adapter.

use std::sync::{PoisonError, RwLock};

use flowtune_engine::ops::linear::{LowRank, Part};
use flowtune_engine::{Param, Tape, Var};

/// The two matrices of a LoRA.
#[derive(Debug, Clone)]
pub struct Lora {
    /// `<module>.lora_A.weight`, `[rank, in]`.
    pub a: Param,
    /// `<module>.lora_B.weight`, `[out, rank]`.
    pub b: Param,
    /// alpha / rank.
    pub scale: f64,
}

/// y = x·Wᵀ, without bias, plus the adapter if there is one.
#[derive(Debug)]
pub struct Linear {
    weight: Param,
    lora: RwLock<Option<Lora>>,
}

impl Linear {
    /// A layer with weight `[out, in]`.
    pub fn new(weight: Param) -> Self {
        Self { weight, lora: RwLock::new(None) }
    }

    /// The weight, `[out, in]`.
    pub fn weight(&self) -> &Param {
        &self.weight
    }

    /// Name of the layer: that of its weight without `.weight`.
    pub fn name(&self) -> &str {
        let name = self.weight.name();
        name.strip_suffix(".weight").unwrap_or(name)
    }

    /// The adapter, if any.
    pub fn lora(&self) -> Option<Lora> {
        self.lora.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Puts an adapter on, or takes it off.
    pub fn set_lora(&self, lora: Option<Lora>) {
        *self.lora.write().unwrap_or_else(PoisonError::into_inner) = lora;
    }

    /// x `[.., in]` → `[.., out]`, in the type of x.
    pub(crate) fn forward(&self, tape: &Tape, x: &Var) -> flowtune_engine::Result<Var> {
        self.with(tape, |weight, low_rank| tape.linear(x, weight, low_rank))
    }

    /// x `[.., in]` → `[.., out]`, float32 when x is bfloat16.
    pub(crate) fn forward_wide(&self, tape: &Tape, x: &Var) -> flowtune_engine::Result<Var> {
        self.with(tape, |weight, low_rank| tape.linear_wide(x, weight, low_rank))
    }

    /// Inputs `[batch, tokens, inᵢ]` side by side → some parts of the outputs.
    pub(crate) fn parts(&self, tape: &Tape, xs: &[&Var], parts: &[Part]) -> flowtune_engine::Result<Vec<Var>> {
        self.with(tape, |weight, low_rank| tape.linear_parts(xs, weight, low_rank, parts))
    }

    fn with<R>(&self, tape: &Tape, f: impl FnOnce(&Var, Option<LowRank>) -> R) -> R {
        let weight = tape.param(&self.weight);
        let Some(lora) = self.lora() else {
            return f(&weight, None);
        };
        let (a, b) = (tape.param(&lora.a), tape.param(&lora.b));
        f(&weight, Some(LowRank { a: &a, b: &b, scale: lora.scale }))
    }
}
