//! The training run: from a recipe to a run folder.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use flowtune_data::{Error as DataError, save_png};
use flowtune_engine::{Gradients, Tape, Tensor};
use flowtune_flow::random::{Purpose, normal_batch};
use flowtune_flow::sampling::SampleInputs;
use flowtune_flow::{FlowMatchingPipeline, Flux2Adapter, Given};
use flowtune_models::transformer::Flux2Transformer;
use flowtune_models::vae::AutoencoderKLFlux2;
use serde::{Deserialize, Serialize};

use crate::control::Control;
use crate::error::{Error, Result};
use crate::evaluate::{held_out_loss, mean};
use crate::event::{Event, TrainSummary};
use crate::lr_schedule::LrSchedule;
use crate::optimizer::AdamW;
use crate::plan::check_memory;
use crate::plot::write_plot;
use crate::recipe::{PromptRecipe, Recipe};
use crate::reference::load_reference_at;
use crate::report::write_report;
use crate::run_folder::RunFolder;
use crate::sample::render;
use crate::session::{Session, flow_batch};
use crate::trainable::Trainable;

/// What `train` is asked for.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TrainOptions {
    /// A resolved recipe; a resumed run goes on with its own instead.
    pub recipe: Recipe,
    /// A run folder to continue from its last checkpoint.
    pub resume: Option<PathBuf>,
}

/// What a checkpoint remembers besides weights and moments.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Progress {
    step: u64,
    training_seconds: f64,
    evaluation_before: Option<f64>,
    samples_before: Vec<PathBuf>,
}

const PROGRESS_FILE: &str = "progress.json";
const OPTIMIZER_FILE: &str = "optimizer.safetensors";

/// Trains as the recipe says.
///
/// # Errors
/// `OUT_OF_MEMORY` before anything is loaded; those of reading model and data; `LOSS_DIVERGED`; `CANCELLED` after a checkpoint was written; `IO`.
pub fn train(options: TrainOptions, control: &Control) -> Result<TrainSummary> {
    let (warning, (folder, recipe)) = match &options.resume {
        Some(dir) => {
            let (folder, recipe) = RunFolder::open(dir)?;
            let (warning, recipe) = admitted(recipe, control)?;
            (warning, (folder, recipe))
        }
        // A run that cannot be leaves no folder.
        None => {
            let (warning, recipe) = admitted(options.recipe, control)?;
            (warning, RunFolder::create(&recipe)?)
        }
    };
    if let Some(warning) = warning {
        tell(&folder, control, &warning)?;
    }
    let mut run = Run::open(folder, recipe, control)?;
    if options.resume.is_some() {
        run.resume()?;
    }
    run.go()
}

/// The recipe with its model here, after what can be said against it before gigabytes are fetched; and a warning.
fn admitted(recipe: Recipe, control: &Control) -> Result<(Option<Event>, Recipe)> {
    let recipe = recipe.pinned(control)?;
    Ok((check_memory(&recipe)?, recipe.with_weights(control)?))
}

struct Run<'a> {
    folder: RunFolder,
    recipe: Recipe,
    control: &'a Control,
    session: Session,
    model: Flux2Transformer,
    trainable: Trainable,
    pipeline: FlowMatchingPipeline<Flux2Adapter>,
    optimizer: AdamW,
    progress: Progress,
}

impl<'a> Run<'a> {
    fn open(folder: RunFolder, recipe: Recipe, control: &'a Control) -> Result<Self> {
        let emit = |event: &Event| tell(&folder, control, event);
        let session = Session::open(&recipe, &emit, control).map_err(|e| match e {
            Error::Data(DataError::Cancelled) => Error::Cancelled { checkpoint: None },
            other => other,
        })?;
        let model = session.folder.transformer(recipe.precision())?;
        let trainable = Trainable::new(&model, &recipe)?;
        let pipeline = session.pipeline(&recipe, model.config().guidance_embeds);
        let optimizer = AdamW::new(trainable.params.clone(), recipe.optimizer.clone());
        let progress = Progress::default();
        Ok(Self { folder, recipe, control, session, model, trainable, pipeline, optimizer, progress })
    }

    fn emit(&self, event: &Event) -> Result<()> {
        tell(&self.folder, self.control, event)
    }

    /// Goes back to the last checkpoint, or to the beginning when there is none yet.
    fn resume(&mut self) -> Result<()> {
        let Some(checkpoint) = self.folder.latest_checkpoint()? else {
            return self.emit(&Event::warning("NO_CHECKPOINT", "no checkpoint yet; the run starts from the beginning"));
        };
        self.trainable.restore(&checkpoint.path)?;
        let file = checkpoint.path.join(OPTIMIZER_FILE);
        self.optimizer.load_state(&flowtune_models::read_safetensors(&file)?, &file)?;
        let file = checkpoint.path.join(PROGRESS_FILE);
        let text = fs::read_to_string(&file).map_err(Error::io(&file, "read"))?;
        self.progress = serde_json::from_str(&text).map_err(|e| Error::layout(&file, e.to_string()))?;
        Ok(())
    }

    fn go(mut self) -> Result<TrainSummary> {
        let total_steps = self.recipe.train.steps;
        let trainable_parameters = self.optimizer.parameter_count();
        let run_dir = self.folder.dir().to_path_buf();
        self.emit(&Event::Started { run_dir, total_steps, trainable_parameters })?;
        if self.progress.step == 0 {
            self.progress.evaluation_before = self.evaluate(0)?;
            self.progress.samples_before = self.samples(0)?;
        }
        let schedule = LrSchedule::of(&self.recipe);
        while self.progress.step < total_steps {
            if self.control.is_cancelled() {
                return Err(self.stopped());
            }
            self.step(&schedule)?;
            let step = self.progress.step;
            if every(self.recipe.checkpoint.every_steps, step) || step == total_steps {
                self.checkpoint()?;
            }
            if step < total_steps && self.recipe.validation.every_steps.is_some_and(|n| every(n, step)) {
                self.evaluate(step)?;
            }
        }
        self.finish()
    }

    /// One optimizer step.
    fn step(&mut self, schedule: &LrSchedule) -> Result<()> {
        let start = Instant::now();
        let index = self.progress.step;
        let (mut loss, mut sigma_mean) = (0.0, 0.0);
        let accumulation = self.recipe.train.gradient_accumulation;
        let mut gradients = Gradients::new();
        for micro in 0..accumulation {
            let metrics = self.backward(index, micro, &mut gradients)?;
            loss += metrics.loss / accumulation as f64;
            sigma_mean += f64::from(metrics.sigma_mean) / accumulation as f64;
        }
        let grad_norm = self.optimizer.clip_gradients(&mut gradients, self.recipe.train.max_grad_norm)?;
        if !grad_norm.is_finite() {
            return Err(Error::LossDiverged {
                what: "gradient norm",
                step: index + 1,
                value: grad_norm,
                allowed: "finite".to_owned(),
            });
        }
        let lr = schedule.lr(index);
        self.optimizer.step(&gradients, lr)?;
        let seconds_per_step = start.elapsed().as_secs_f64();
        self.progress.step += 1;
        self.progress.training_seconds += seconds_per_step;
        let (step, total_steps) = (self.progress.step, self.recipe.train.steps);
        self.emit(&Event::Step { step, total_steps, loss, grad_norm, lr, seconds_per_step, sigma_mean })
    }

    /// Forward and backward of one batch, its gradients added to `gradients`.
    fn backward(&self, index: u64, micro: usize, gradients: &mut Gradients) -> Result<flowtune_flow::Metrics> {
        let train = &self.recipe.train;
        let accumulation = train.gradient_accumulation as u64;
        let batch = flow_batch(self.session.train.batch(index * accumulation + micro as u64)?);
        let tape = Tape::keeping(train.keep());
        let key = (train.seed, index, (micro * train.batch_size) as u64);
        let step = self.pipeline.step(&tape, &self.model, &batch, key, Given::default()).map_err(|e| match e {
            flowtune_flow::Error::LossDiverged { loss, limit } => {
                let allowed = format!("at most {limit} (flowMatching.maxLoss)");
                Error::LossDiverged { what: "loss", step: index + 1, value: loss, allowed }
            }
            other => other.into(),
        })?;
        let seed = Tensor::full(1.0 / accumulation as f32, &[]);
        let flowtune_flow::StepOutput { loss, metrics, .. } = step;
        tape.backward(&loss, seed, &[], gradients)?;
        Ok(metrics)
    }

    /// The end of a run that was asked to stop: everything it has done is on disk.
    fn stopped(&self) -> Error {
        self.save_unsaved().map_or_else(|error| error, |checkpoint| Error::Cancelled { checkpoint })
    }

    /// The checkpoint of the last step, written if it is not there yet; none before the first step.
    fn save_unsaved(&self) -> Result<Option<PathBuf>> {
        let saved = self.folder.latest_checkpoint()?;
        if self.progress.step > saved.as_ref().map_or(0, |c| c.step) {
            self.checkpoint()?;
        }
        Ok(self.folder.latest_checkpoint()?.map(|c| c.path))
    }

    fn checkpoint(&self) -> Result<()> {
        let step = self.progress.step;
        let checkpoint = self.folder.write_checkpoint(step, self.recipe.checkpoint.keep, |dir| {
            self.trainable.save(dir)?;
            flowtune_models::save_safetensors(dir.join(OPTIMIZER_FILE), &self.optimizer.state()?, None)?;
            write_json(&dir.join(PROGRESS_FILE), &self.progress)
        })?;
        self.emit(&Event::Checkpoint { step, path: checkpoint.path })
    }

    /// The held-out loss, if there are held-out images.
    fn evaluate(&self, step: u64) -> Result<Option<f64>> {
        let Some(held_out) = &self.session.held_out else {
            return Ok(None);
        };
        let per_sigma = match held_out_loss(&self.model, held_out, &self.recipe, self.control) {
            Err(Error::Cancelled { .. }) => return Err(self.stopped()),
            other => other?,
        };
        let loss = mean(&per_sigma);
        self.emit(&Event::Evaluation { step, loss, per_sigma })?;
        Ok(Some(loss))
    }

    /// One image per validation prompt.
    fn samples(&self, step: u64) -> Result<Vec<PathBuf>> {
        let validation = &self.recipe.validation;
        if validation.prompts.is_empty() {
            return Ok(Vec::new());
        }
        let vae = self.session.folder.vae()?;
        let side = self.recipe.data.largest_resolution() / 16;
        let shape = [1, self.model.config().in_channels, side, side];
        let batched = |t: &Tensor| t.reshape(&[1, t.dim(0), t.dim(1)]);
        let mut paths = Vec::new();
        for (i, (prompt, embedding)) in validation.prompts.iter().zip(&self.session.prompts).enumerate() {
            let inputs = SampleInputs {
                text_embeddings: batched(embedding)?,
                negative_text_embeddings: Some(batched(self.session.empty_prompt())?),
                initial_latents: normal_batch(validation.sample_seed, 0, i as u64, Purpose::InitialLatents, &shape)?,
                steps: validation.sample_steps,
                guidance_scale: validation.sample_guidance,
                references: self.references(prompt, &vae)?,
            };
            let stage = format!("sampling image {} of {}", i + 1, validation.prompts.len());
            let image = match render(&self.model, &vae, &inputs, &stage, self.control) {
                Err(Error::Cancelled { .. }) => return Err(self.stopped()),
                other => other?,
            };
            let path = self.folder.sample_path(step, i)?;
            save_png(&image.reshape(&image.shape()[1..])?, &path)?;
            self.emit(&Event::Sample { step, path: path.clone(), prompt: prompt.prompt.clone() })?;
            paths.push(path);
        }
        Ok(paths)
    }

    /// Latents of a prompt's reference images, for the one sample of its batch.
    fn references(&self, prompt: &PromptRecipe, vae: &AutoencoderKLFlux2) -> Result<Vec<Vec<Tensor>>> {
        let resolution = self.recipe.data.largest_resolution();
        let latents = |path: &PathBuf| {
            let mode = vae.encode(&load_reference_at(path, resolution)?)?;
            Ok(vae.image_latents(&mode)?)
        };
        Ok(vec![prompt.references.iter().map(latents).collect::<Result<_>>()?])
    }

    /// Everything that a finished run leaves.
    fn finish(self) -> Result<TrainSummary> {
        let steps = self.progress.step;
        let evaluation_after = self.evaluate(steps)?;
        let samples_after = self.samples(steps)?;
        let weights = self.trainable.export(&self.folder, &self.model, &self.recipe)?;
        let (plot, report) = (self.folder.plot_path(), self.folder.report_path());
        let summary = TrainSummary {
            run_dir: self.folder.dir().to_path_buf(),
            steps,
            weights,
            evaluation_before: self.progress.evaluation_before,
            evaluation_after,
            samples_before: self.progress.samples_before.clone(),
            samples_after,
            plot: Some(plot.clone()),
            report: Some(report.clone()),
            training_seconds: Some(self.progress.training_seconds),
        };
        let events = self.folder.events()?;
        write_plot(&events, &plot)?;
        write_report(&self.recipe, &events, &summary, &report)?;
        self.emit(&Event::Finished(summary.clone()))?;
        Ok(summary)
    }
}

/// Into the run folder, then to the owner. Progress bars are not worth a line of `events.jsonl`.
fn tell(folder: &RunFolder, control: &Control, event: &Event) -> Result<()> {
    if !matches!(event, Event::Progress { .. }) {
        folder.append(event)?;
    }
    control.emit(event);
    Ok(())
}

fn every(n: u64, step: u64) -> bool {
    n > 0 && step.is_multiple_of(n)
}

fn write_json(path: &Path, value: &impl Serialize) -> Result<()> {
    let text = serde_json::to_vec_pretty(value).map_err(|e| Error::Internal(e.to_string()))?;
    fs::write(path, text).map_err(Error::io(path, "written"))
}
