//! A training step and a sample image, from what a run holds to the updated weights.

use std::collections::HashMap;

use flowtune_engine::{DType, Keep};
use flowtune_models::Precision;
use flowtune_models::transformer::{Flux2Config, WeightShape};

use super::ledger::{Component, Ghost, Ledger, Operations};
use super::tape::{Gradients, Tape};
use super::transformer::{Sequence, Transformer};

/// The model of a run, as far as sizes go.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Denoising<'a> {
    pub(crate) config: &'a Flux2Config,
    pub(crate) weights: &'a [WeightShape],
    /// Types in which the files have the weights.
    pub(crate) stored: &'a [Option<DType>],
    pub(crate) precision: Precision,
    /// Rank of the adapter of each layer that has one; empty for full fine-tuning.
    pub(crate) ranks: &'a HashMap<String, usize>,
    pub(crate) threads: usize,
}

/// One optimizer step.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Step {
    pub(crate) batch: usize,
    pub(crate) sequence: Sequence,
    pub(crate) keep: Keep,
    pub(crate) accumulation: usize,
    /// Whether captions may be dropped, for which a batch is copied.
    pub(crate) drops_captions: bool,
}

/// A model and an optimizer in memory.
pub(crate) struct Training<'a> {
    ledger: Ledger,
    model: Denoising<'a>,
    transformer: Transformer,
    _moments: Vec<Ghost>,
}

impl<'a> Training<'a> {
    /// Takes room for weights, adapters and moments.
    pub(crate) fn load(ledger: &Ledger, model: Denoising<'a>) -> Self {
        let transformer = Transformer::load(ledger, &model);
        let moments = model.trained().into_iter().flat_map(|elements| [elements; 2]);
        let moments = moments.map(|elements| ledger.tensor(Component::Optimizer, elements, 4)).collect();
        Self { ledger: ledger.clone(), model, transformer, _moments: moments }
    }

    /// Forward and backward of each batch of a step. Gradients are gone afterwards.
    pub(crate) fn step(&self, step: Step) {
        let mut gradients = Gradients::default();
        self.repeated(step.accumulation, &mut || self.backward(step, &mut gradients));
    }

    /// Does `work`, which takes the same each time but for what the first leaves, twice at most, and counts it `times`.
    fn repeated(&self, times: usize, work: &mut dyn FnMut()) {
        let mut last = Operations::default();
        for _ in 0..times.min(2) {
            let before = self.ledger.operations();
            work();
            last = self.ledger.operations().minus(before);
        }
        self.ledger.compute(last.times(times.saturating_sub(2) as f64));
    }

    fn backward(&self, step: Step, gradients: &mut Gradients) {
        let Step { batch, sequence, keep, .. } = step;
        let (latents, text) = self.model.batch(batch, sequence);
        let data = |elements| self.ledger.tensor(Component::Data, elements, 4);
        let (_latents, mut embeddings) = (data(latents), data(text));
        let tape = Tape::keeping(&self.ledger, keep);
        let target = data(latents);
        let (loss, _prediction) = {
            let _noise_and_noisy = [data(latents), data(latents)];
            let packed = data(latents);
            if step.drops_captions {
                let _whole = embeddings.clone();
                embeddings = data(text);
            }
            let prediction = self.transformer.forward(&tape, &packed, &embeddings, batch, sequence);
            let prediction = tape.rearranged(&prediction);
            (tape.weighted_mse(&prediction, &target), prediction)
        };
        drop(target);
        tape.backward(&loss, gradients);
    }

    /// A forward without gradients.
    pub(crate) fn evaluate(&self, step: Step) {
        let (latents, text) = self.model.batch(step.batch, step.sequence);
        let data = |elements| self.ledger.tensor(Component::Data, elements, 4);
        let (packed, embeddings) = (data(latents), data(text));
        self.transformer.forward(&Tape::inference(&self.ledger), &packed, &embeddings, step.batch, step.sequence);
    }

    /// The forwards of a sample image.
    pub(crate) fn sample(&self, sampling: Sampling) {
        let Sampling { sequence, predictions, steps } = sampling;
        let (latents, text) = self.model.batch(1, sequence);
        let data = |elements| self.ledger.tensor(Component::Data, elements, 4);
        let (_initial, packed) = (data(latents), data(latents));
        let embeddings = data(text);
        self.repeated(steps, &mut || {
            let predict =
                |_| self.transformer.forward(&Tape::inference(&self.ledger), &packed, &embeddings, 1, sequence);
            drop((0..predictions).map(predict).collect::<Vec<_>>());
        });
    }
}

/// A sample image.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sampling {
    pub(crate) sequence: Sequence,
    /// 2 with classifier-free guidance.
    pub(crate) predictions: usize,
    pub(crate) steps: usize,
}

impl Denoising<'_> {
    /// Elements of latents and text embeddings.
    fn batch(&self, batch: usize, s: Sequence) -> (usize, usize) {
        (batch * s.image * self.config.in_channels, batch * s.text * self.config.joint_attention_dim)
    }

    /// Numbers in each tensor that trains.
    pub(crate) fn trained(&self) -> Vec<usize> {
        let of = |w: &WeightShape| match self.ranks.get(w.name.strip_suffix(".weight").unwrap_or(&w.name)) {
            Some(rank) => w.shape.iter().map(|width| rank * width).collect(),
            None if self.precision.trainable => vec![w.shape.iter().product()],
            None => Vec::new(),
        };
        self.weights.iter().flat_map(of).collect()
    }
}
