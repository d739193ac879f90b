//! What `train` asks before it loads: whether the run fits, in milliseconds.

use super::inputs::{DataSize, Model, must_encode};
use super::memory::{PhaseName, Rehearsal, rehearse};
use super::room::Room;
use super::switches::{Search, Setting, Switch};
use crate::error::{Error, Result};
use crate::event::Event;
use crate::recipe::Recipe;

/// Share of the available memory above which a run is told to be tight.
const TIGHT: f64 = 0.9;

/// Refuses a run that takes more memory than there is; a warning where it is tight. Where something cannot be read there is
/// nothing to say: the run itself will.
///
/// # Errors
/// `OUT_OF_MEMORY`, with what to switch.
pub(crate) fn check_memory(recipe: &Recipe) -> Result<Option<Event>> {
    match Room::here() {
        Some(room) if !recipe.train.allow_over_memory => check_within(recipe, room),
        _ => Ok(None),
    }
}

fn check_within(recipe: &Recipe, room: Room) -> Result<Option<Event>> {
    let Ok(model) = Model::open(recipe) else { return Ok(None) };
    // The images would take longer to list than everything else.
    let data = DataSize::default();
    let encodes = must_encode(&recipe.data.cache_dir, data);
    let Ok(run) = rehearse(&model, data, encodes, recipe) else { return Ok(None) };
    let (peak, limit) = (room.peak(&run), room.with_resting(&run, recipe));
    let (taken, available) = (gigabytes(peak.peak), gigabytes(limit));
    if peak.peak > limit {
        let search = Search { model: &model, data, recipe, limit };
        let smaller = if run.training_peak().peak > limit { search.cheapest()? } else { None };
        let advice = match (peak.name, &smaller) {
            (PhaseName::Encode, _) => encoding_advice(&run, smaller.as_ref()),
            (_, Some(switch)) => format!("with {} it takes {}", in_words(switch), gigabytes(switch.peak)),
            _ => "no setting makes it fit; take a smaller model, or a machine with more memory".to_owned(),
        };
        return Err(Error::OutOfMemory(format!(
            "{} would take about {taken} of memory, and {available} are available; {advice}. `flowtune plan` shows \
             where it goes; `train.allowOverMemory: true` tries all the same",
            doing(peak.name)
        )));
    }
    let tight = peak.peak as f64 > TIGHT * limit as f64;
    Ok(tight.then(|| {
        let message = format!("{} takes about {taken} of memory, and {available} are available", doing(peak.name));
        Event::warning("MEMORY_TIGHT", message)
    }))
}

/// What to do where the encoders do not fit; `smaller` is how training does, where it does not either.
pub(super) fn encoding_advice(run: &Rehearsal, smaller: Option<&Switch>) -> String {
    let (settings, peak) = match smaller {
        Some(switch) => (format!(" with {}", in_words(switch)), switch.peak),
        None => (String::new(), run.training_peak().peak),
    };
    format!(
        "encoding takes {} whatever is trained, most of it the text encoder: run `flowtune prepare` where there is more \
         memory, and bring its `data.cacheDir` here; training{settings} then takes {}",
        gigabytes(run.phases[0].peak),
        gigabytes(peak)
    )
}

fn doing(phase: PhaseName) -> &'static str {
    match phase {
        PhaseName::Encode => "encoding the data",
        PhaseName::Train => "training",
        PhaseName::Sample => "a sample image",
    }
}

/// `model.quantization: int8`, as in a recipe.
fn in_words(switch: &Switch) -> String {
    let word = |Setting { key, value }: &Setting| match value {
        serde_json::Value::Null => format!("no `{key}`"),
        serde_json::Value::String(text) => format!("`{key}: {text}`"),
        other => format!("`{key}: {other}`"),
    };
    switch.settings.iter().map(word).collect::<Vec<_>>().join(", ")
}

/// 12.3 GB, of 10⁹ bytes.
fn gigabytes(bytes: usize) -> String {
    format!("{:.1} GB", bytes as f64 / 1e9)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use flowtune_models::transformer::Offload;

    use super::*;
    use crate::recipe::resolve_recipe;

    fn recipe(train: &str) -> Recipe {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let text = format!(
            r#"{{"model": {{"path": "__test__/fixtures/parity/pipeline/pipeline"}}, "data": {{"train": "examples/twemoji",
                "resolution": 512, "cacheDir": "/nowhere"}}, "train": {{"steps": 1, {train}}}}}"#
        );
        resolve_recipe(&text, &root).unwrap()
    }

    #[test]
    fn what_does_not_fit_is_refused_with_what_to_switch() {
        let recipe = recipe(r#""batchSize": 8, "activationCheckpointing": false"#);
        let peak = |limit: usize| check_within(&recipe, Room::on_host(limit as u64));
        assert!(peak(usize::MAX).unwrap().is_none());
        let run = rehearse(&Model::open(&recipe).unwrap(), DataSize::default(), false, &recipe).unwrap();
        let limit = run.training_peak().peak * 7 / 10;
        let refused = peak(limit).unwrap_err();
        assert_eq!(refused.code(), "OUT_OF_MEMORY");
        let (message, available) = (refused.to_string(), format!("{} are available", gigabytes(limit)));
        for part in ["training would take about", &available, "`train.", "flowtune plan", "allowOverMemory"] {
            assert!(message.contains(part), "{part}: {message}");
        }
        let hopeless = peak(1_000_000).unwrap_err().to_string();
        assert!(hopeless.contains("encoding takes") || hopeless.contains("no setting"), "{hopeless}");
    }

    #[test]
    fn on_a_card_frozen_weights_may_rest_elsewhere() {
        let mut recipe = recipe(r#""batchSize": 1"#);
        let run = rehearse(&Model::open(&recipe).unwrap(), DataSize::default(), false, &recipe).unwrap();
        // A little less than training takes: some weights have to rest.
        let card = Room { bytes: run.training_peak().peak - 1000, on_card: true };
        assert!(check_within(&recipe, card).is_ok());
        recipe.model.offload = Offload::None;
        assert_eq!(check_within(&recipe, card).unwrap_err().code(), "OUT_OF_MEMORY");
    }

    #[test]
    fn a_model_that_cannot_be_read_is_for_the_run_to_report() {
        let mut recipe = recipe(r#""batchSize": 1"#);
        recipe.model.path = "/nowhere".into();
        assert!(check_within(&recipe, Room::on_host(1)).unwrap().is_none());
    }
}
