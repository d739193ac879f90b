//! The run folder: `recipe.yaml`, `events.jsonl`, `checkpoints/step-N`, `lora/`, `samples/`, `plot.svg`,
//! `report.html`. An existing folder is never written over, and what is written is whole or absent.

mod checkpoints;
mod events;

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use flowtune_data::atomic;

pub use checkpoints::{Checkpoint, list_checkpoints};

use crate::error::{Error, Result};
use crate::event::Event;
use crate::recipe::{Recipe, resolve_recipe};
use events::EventFile;

const RECIPE: &str = "recipe.yaml";
const EVENTS: &str = "events.jsonl";

/// Names tried beside a taken one.
const MAX_NUMBERED: usize = 1000;

/// A run folder that this process alone writes to.
#[derive(Debug)]
pub struct RunFolder {
    dir: PathBuf,
    events: EventFile,
}

impl RunFolder {
    /// Makes the folder `recipe.output.dir`, or with `-2`, `-3`, … appended where there is already something in it, and
    /// writes `recipe.yaml` there with `output.dir` as it became.
    ///
    /// # Errors
    /// `IO`.
    pub fn create(recipe: &Recipe) -> Result<(Self, Recipe)> {
        let dir = make_fresh(&recipe.output.dir)?;
        let mut recipe = recipe.clone();
        recipe.output.dir.clone_from(&dir);
        let yaml = serde_norway::to_string(&recipe).map_err(|e| Error::Internal(format!("recipe to YAML: {e}")))?;
        atomic::write_file(&dir.join(RECIPE), yaml.as_bytes())?;
        let events = EventFile::open(&dir.join(EVENTS))?;
        Ok((Self { dir, events }, recipe))
    }

    /// Opens the folder of an earlier run to go on with it.
    ///
    /// # Errors
    /// `CHECKPOINT_LAYOUT` when it is not a run folder, `RECIPE_INVALID` when its recipe was changed for the worse,
    /// `IO` when another process writes to it.
    pub fn open(dir: &Path) -> Result<(Self, Recipe)> {
        let dir = std::path::absolute(dir).map_err(Error::io(dir, "made absolute"))?;
        let mut recipe = read_recipe(&dir)?;
        recipe.output.dir.clone_from(&dir);
        let events = EventFile::open(&dir.join(EVENTS))?;
        checkpoints::sweep(&dir)?;
        Ok((Self { dir, events }, recipe))
    }

    /// The folder, absolute.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Where the trained LoRA goes.
    pub fn lora_dir(&self) -> PathBuf {
        self.dir.join("lora")
    }

    /// Where the transformer goes after full fine-tuning.
    pub fn transformer_dir(&self) -> PathBuf {
        self.dir.join("transformer")
    }

    /// Where the sample image of prompt number `index` (from 0) after `step` steps goes; the folder is made.
    ///
    /// # Errors
    /// `IO`.
    pub fn sample_path(&self, step: u64, index: usize) -> Result<PathBuf> {
        let dir = self.dir.join("samples");
        fs::create_dir_all(&dir).map_err(Error::io(&dir, "made"))?;
        Ok(dir.join(format!("step-{step:06}-{index:02}.png")))
    }

    /// Where the plot goes.
    pub fn plot_path(&self) -> PathBuf {
        self.dir.join("plot.svg")
    }

    /// Where the report goes.
    pub fn report_path(&self) -> PathBuf {
        self.dir.join("report.html")
    }

    /// Appends a line to `events.jsonl`.
    ///
    /// # Errors
    /// `IO`.
    pub fn append(&self, event: &Event) -> Result<()> {
        self.events.append(event)
    }

    /// All events so far, those before a resume included. Steps that a resume took again appear once, as last taken.
    ///
    /// # Errors
    /// `IO`.
    pub fn events(&self) -> Result<Vec<Event>> {
        read_events(&self.dir)
    }
}

/// The events of the run folder `dir`, as [`RunFolder::events`] but without opening it for writing.
///
/// # Errors
/// `IO`.
pub fn read_events(dir: &Path) -> Result<Vec<Event>> {
    events::read(&dir.join(EVENTS))
}

/// The recipe of the run folder `dir`.
///
/// # Errors
/// `CHECKPOINT_LAYOUT` when it is not a run folder, `RECIPE_INVALID`.
pub fn read_recipe(dir: &Path) -> Result<Recipe> {
    let path = dir.join(RECIPE);
    let yaml = fs::read_to_string(&path).map_err(|e| match e.kind() {
        ErrorKind::NotFound | ErrorKind::NotADirectory => {
            Error::layout(dir, "is not a run folder: it has no recipe.yaml")
        }
        _ => Error::io(&path, "read")(e),
    })?;
    let in_file = |message: String| Error::Recipe(format!("{}: {message}", path.display()));
    let value: serde_json::Value = serde_norway::from_str(&yaml).map_err(|e| in_file(e.to_string()))?;
    resolve_recipe(&value.to_string(), dir).map_err(|e| match e {
        Error::Recipe(message) => in_file(message),
        other => other,
    })
}

/// Makes `wanted`, or the first free `wanted-N`. Making a folder fails when it exists, so two processes never share one;
/// an empty folder of the user's is taken as it is.
fn make_fresh(wanted: &Path) -> Result<PathBuf> {
    let parent = wanted.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(parent).map_err(Error::io(parent, "made"))?;
    let name = wanted.file_name().unwrap_or_default().to_string_lossy();
    for n in 1..=MAX_NUMBERED {
        let dir = if n == 1 { wanted.to_path_buf() } else { parent.join(format!("{name}-{n}")) };
        match fs::create_dir(&dir) {
            Ok(()) => {
                atomic::sync_dir(parent)?;
                return Ok(dir);
            }
            Err(e) if e.kind() == ErrorKind::AlreadyExists && is_empty(&dir) => return Ok(dir),
            Err(e) if e.kind() == ErrorKind::AlreadyExists => {}
            Err(e) => return Err(Error::io(&dir, "made")(e)),
        }
    }
    Err(Error::InvalidArgument(format!(
        "{} and {MAX_NUMBERED} numbered folders beside it are taken; choose another output.dir",
        wanted.display()
    )))
}

fn is_empty(dir: &Path) -> bool {
    fs::read_dir(dir).is_ok_and(|mut entries| entries.next().is_none())
}

#[cfg(test)]
mod tests;
