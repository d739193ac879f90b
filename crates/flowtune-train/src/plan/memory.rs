//! Memory over a run: its phases rehearsed one after the other.

use flowtune_engine::num_threads;
use serde::Serialize;

use super::inputs::{DataSize, Model};
use super::rehearsal::{Component, Ghost, Ledger, Operations, Sampling, Sequence, Step, Training, Vae, encode_text};
use crate::error::Result;
use crate::recipe::Recipe;
use crate::session::LOADER_MEMORY;

/// Node 20 with the addon, what the engine's threads keep, and small blocks that the C library keeps when they are free:
/// measured, beside all tensors.
const PROCESS: usize = 85_000_000;

/// Part of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum PhaseName {
    /// Encoding captions, then images, where the cache lacks them.
    Encode,
    /// Training steps.
    Train,
    /// Sample images.
    Sample,
}

/// Memory of a phase.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Phase {
    /// Which.
    pub name: PhaseName,
    /// Whether the run certainly has it: a cache that may be complete needs no encoding.
    pub needed: bool,
    /// The most that is in memory at once, in bytes.
    pub peak: usize,
    /// What it is for at that moment; adds up to the peak.
    pub components: Vec<ComponentSize>,
}

/// Memory of a component.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ComponentSize {
    /// Which.
    pub component: Component,
    /// Bytes.
    pub bytes: usize,
}

/// A run rehearsed.
pub(super) struct Rehearsal {
    pub(super) phases: Vec<Phase>,
    pub(super) work: Work,
}

/// Operations of a run's parts.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Work {
    /// Encoding a caption, in float32.
    pub(super) caption: Operations,
    /// Encoding an image, in float32.
    pub(super) image: Operations,
    /// An optimizer step.
    pub(super) step: Operations,
    /// A forward without gradients, of a batch.
    pub(super) evaluation: Operations,
    /// The transformer's share of a sample image.
    pub(super) sample: Operations,
    /// The VAE's, in float32.
    pub(super) decode: Operations,
}

impl Rehearsal {
    /// The most that is in memory at once in what the run certainly does.
    pub(super) fn peak(&self) -> &Phase {
        let needed = self.phases.iter().filter(|phase| phase.needed);
        needed.max_by_key(|phase| phase.peak).unwrap_or(&self.phases[0])
    }

    /// The most after the encoders are gone.
    pub(super) fn training_peak(&self) -> &Phase {
        let training = self.phases.iter().filter(|phase| phase.name != PhaseName::Encode);
        training.max_by_key(|phase| phase.peak).unwrap_or(&self.phases[0])
    }
}

fn phase(name: PhaseName, needed: bool, ledger: &Ledger) -> Phase {
    let usage = ledger.peak();
    let components = usage.parts().map(|(component, bytes)| ComponentSize { component, bytes }).collect();
    Phase { name, needed, peak: usage.total(), components }
}

/// Image tokens of an image: a token for 16×16 pixels.
pub(super) fn image_tokens(width: usize, height: usize) -> usize {
    (width / 16) * (height / 16)
}

/// A run with `recipe`, which may differ from the one that `model` was opened for in everything but its files.
pub(super) fn rehearse(model: &Model, data: DataSize, encodes: bool, recipe: &Recipe) -> Result<Rehearsal> {
    let ranks = model.ranks(recipe)?;
    let side = recipe.data.largest_resolution();
    // References join the sequence, each with about the image's tokens.
    let sequence = Sequence { image: image_tokens(side, side) * (1 + data.references), text: model.text_tokens };
    let denoising = model.denoising(recipe, &ranks);
    let vae = |ledger: &Ledger| Vae::load(ledger, &model.vae, model.vae_parameters);
    let (mut phases, mut work) = (Vec::new(), Work::default());

    let (ledger, _process) = begin();
    let taps = model.text.family.flux2_layers();
    let text = encode_text(&ledger, &model.text, &taps, model.text_tokens, model.text_stored, num_threads());
    work.caption = ledger.operations();
    drop(text);
    vae(&ledger).encode(side, side);
    work.image = ledger.operations().minus(work.caption);
    phases.push(phase(PhaseName::Encode, encodes, &ledger));

    let (ledger, _process) = begin();
    let _cached = cached(&ledger, model, data, recipe, sequence);
    let training = Training::load(&ledger, denoising);
    let step = Step {
        batch: recipe.train.batch_size,
        sequence,
        keep: recipe.train.keep(),
        accumulation: recipe.train.gradient_accumulation,
        drops_captions: recipe.flow_matching.caption_dropout > 0.0,
    };
    training.step(step);
    work.step = ledger.operations();
    phases.push(phase(PhaseName::Train, true, &ledger));
    training.evaluate(step);
    work.evaluation = ledger.operations().minus(work.step);

    if !recipe.validation.prompts.is_empty() {
        let (ledger, _process) = begin();
        let _cached = cached(&ledger, model, data, recipe, sequence);
        let training = Training::load(&ledger, denoising);
        let vae = vae(&ledger);
        let guided = recipe.validation.sample_guidance > 1.0 && !model.config.guidance_embeds;
        let predictions = if guided { 2 } else { 1 };
        training.sample(Sampling { sequence, predictions, steps: recipe.validation.sample_steps });
        work.sample = ledger.operations();
        vae.decode(side, side);
        work.decode = ledger.operations().minus(work.sample);
        phases.push(phase(PhaseName::Sample, true, &ledger));
    }
    Ok(Rehearsal { phases, work })
}

/// A ledger with what is there before anything is loaded.
fn begin() -> (Ledger, Ghost) {
    let ledger = Ledger::default();
    let process = ledger.buffer(Component::Process, PROCESS);
    (ledger, process)
}

/// What the loaders have in memory at the end, and the embeddings of the prompts.
fn cached(ledger: &Ledger, model: &Model, data: DataSize, recipe: &Recipe, sequence: Sequence) -> [Ghost; 3] {
    let latents = 4 * sequence.image * model.config.in_channels;
    let text = 4 * sequence.text * model.config.joint_attention_dim;
    let loader = |samples: usize| (samples * latents + samples.min(data.captions) * text).min(LOADER_MEMORY);
    let seen = usize::try_from(recipe.train.steps).unwrap_or(usize::MAX).saturating_mul(recipe.samples_per_step());
    let prompts = (1 + recipe.validation.prompts.len()) * text;
    [loader(data.images.min(seen)), loader(data.held_out), prompts]
        .map(|bytes| ledger.tensor(Component::Data, bytes, 1))
}
