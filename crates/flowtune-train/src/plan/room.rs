//! The memory that a run has: the host's, or a card's and what may rest beside it.

use flowtune_engine::Device;
use flowtune_models::transformer::Offload;

use super::machine::available_memory;
use super::memory::{Phase, Rehearsal};
use super::rehearsal::Component;
use crate::recipe::{Mode, Recipe};

/// What a card's kernels need besides what the rehearsal, which is the processor's, knows of: scores of attention, a weight
/// that is made into numbers.
const BESIDE_A_STEP: usize = 1 << 30;

/// Memory of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Room {
    /// Bytes.
    pub(super) bytes: usize,
    /// Whether they are a card's, whose encoders go to the host where they do not fit.
    pub(super) on_card: bool,
}

impl Room {
    /// What this build computes in; none when the system does not say.
    pub(super) fn here() -> Option<Self> {
        match Device::preferred().and_then(|device| device.card()) {
            Ok(Some(card)) => Some(Self::on_card(card.available_memory)),
            _ => available_memory().map(Self::on_host),
        }
    }

    pub(super) fn on_host(bytes: u64) -> Self {
        Self { bytes: bytes as usize, on_card: false }
    }

    fn on_card(bytes: u64) -> Self {
        Self { bytes: (bytes as usize).saturating_sub(BESIDE_A_STEP), on_card: true }
    }

    /// The phase that takes the most of it.
    pub(super) fn peak(self, run: &Rehearsal) -> &Phase {
        if self.on_card { run.training_peak() } else { run.peak() }
    }

    /// Bytes that training may take, with the weights that may rest elsewhere.
    pub(super) fn with_resting(self, run: &Rehearsal, recipe: &Recipe) -> usize {
        let rests = self.on_card && recipe.mode == Mode::Lora && recipe.model.offload != Offload::None;
        let of = |part: &&super::ComponentSize| part.component == Component::Transformer;
        let weights = || run.training_peak().components.iter().find(of).map_or(0, |part| part.bytes);
        self.bytes + if rests { weights() } else { 0 }
    }
}
