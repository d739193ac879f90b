//! What a run will take, before anything is loaded: from the headers of the model's files and the recipe alone.

mod check;
mod disk;
mod inputs;
mod machine;
mod memory;
mod rehearsal;
mod room;
mod switches;
mod time;

use serde::{Deserialize, Serialize};

pub(crate) use check::check_memory;
use check::encoding_advice;
pub use disk::DiskPlan;
use inputs::{DataSize, Model, must_encode};
pub(crate) use machine::available_memory;
use memory::rehearse;
pub use memory::{ComponentSize, Phase, PhaseName};
pub use rehearsal::Component;
use room::Room;
use switches::Search;
pub use switches::{Setting, Switch};
pub use time::TimePlan;
use time::{Rates, time};

use crate::error::Result;
use crate::recipe::Recipe;

/// What `plan` is asked for.
#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct PlanOptions {
    /// Gigabytes (10⁹ bytes) that the run may take, instead of what this machine has available.
    pub memory: Option<f64>,
    /// Leave out how long it takes, for which products are timed for half a second.
    pub no_time: bool,
}

/// What a run will take.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Plan {
    /// Memory.
    pub memory: MemoryPlan,
    /// Disk.
    pub disk: DiskPlan,
    /// How long it takes; none when that was left out.
    pub time: Option<TimePlan>,
    /// Training images; none when their folder cannot be read.
    pub images: Option<usize>,
    /// Where training does not fit: what makes it smaller, each by itself, cheapest first.
    pub switches: Vec<Switch>,
    /// The cheapest combination with which training fits, where it does not and there is one.
    pub recommended: Option<Switch>,
    /// What else there is to know, in sentences.
    pub notes: Vec<String>,
}

/// Memory of a run, in bytes.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct MemoryPlan {
    /// The most that is in memory at once.
    pub peak: usize,
    /// When.
    pub phase: PhaseName,
    /// What the run may take: what was asked for, or what this machine has available; none when it does not say.
    pub limit: Option<u64>,
    /// Whether the peak is within the limit; none without one.
    pub fits: Option<bool>,
    /// By phase, in order.
    pub phases: Vec<Phase>,
}

/// Plans a run with a resolved recipe. Reads headers and configurations of the model and lists the images; no weights.
///
/// # Errors
/// Those of opening the model, whose files must be there; `RECIPE_INVALID` when `lora.targets` selects nothing.
pub fn plan(recipe: &Recipe, options: PlanOptions) -> Result<Plan> {
    let model = Model::open(recipe)?;
    let listed = DataSize::of(recipe);
    let data = listed.unwrap_or_default();
    let encodes = must_encode(&recipe.data.cache_dir, data);
    let run = rehearse(&model, data, encodes, recipe)?;
    let room = options.memory.map(|gigabytes| Room::on_host((gigabytes * 1e9) as u64)).or_else(Room::here);
    let search = room.map(|room| Search { model: &model, data, recipe, limit: room.with_resting(&run, recipe) });
    let search = search.filter(|search| run.training_peak().peak > search.limit);
    let time = (!options.no_time).then(|| Rates::measure(recipe).map(|rates| time(data, encodes, recipe, &run, rates)));
    let peak = room.map_or_else(|| run.peak(), |room| room.peak(&run));
    let recommended = search.as_ref().map(Search::cheapest).transpose()?.flatten();
    Ok(Plan {
        disk: disk::disk(&model, listed, recipe)?,
        time: time.transpose()?,
        images: listed.map(|data| data.images),
        switches: search.as_ref().map(Search::singly).transpose()?.unwrap_or_default(),
        notes: notes(&run, room, listed, recommended.as_ref()),
        recommended,
        memory: MemoryPlan {
            peak: peak.peak,
            phase: peak.name,
            limit: room.map(|room| room.bytes as u64),
            fits: room.map(|room| peak.peak <= room.with_resting(&run, recipe)),
            phases: run.phases,
        },
    })
}

fn notes(run: &memory::Rehearsal, room: Option<Room>, data: Option<DataSize>, smaller: Option<&Switch>) -> Vec<String> {
    let encode = &run.phases[0];
    let mut notes = Vec::new();
    if data.is_none() {
        notes
            .push("the images cannot be read, so that nothing is known of the cache and of the loader's memory".into());
    }
    if !encode.needed {
        notes.push("the cache has as many entries as this recipe needs: encoding is not counted, unless it turns out that they are others".into());
    }
    match room {
        Some(Room { on_card: true, .. }) => notes.push(
            "memory is the card's: of frozen weights, what does not fit rests in the host's memory (`model.offload`), and so does a text encoder that does not fit".into(),
        ),
        Some(room) if encode.needed && encode.peak > room.bytes => notes.push(encoding_advice(run, smaller)),
        _ => {}
    }
    notes
}

#[cfg(test)]
mod tests;
