//! `report.html`: one file that shows a run: figures, images before and after, plot, recipe.

use std::fs;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use flowtune_data::atomic;
use minijinja::value::Serde;
use minijinja::{AutoEscape, Environment, Value, context};
use serde::Serialize;

use crate::error::{Error, Result};
use crate::event::{Event, TrainSummary};
use crate::plot::draw_plot;
use crate::recipe::{PromptRecipe, Recipe};

const TEMPLATE: &str = include_str!("report.html.jinja");

#[derive(Serialize)]
struct Pair {
    prompt: String,
    before: Option<String>,
    after: Option<String>,
}

#[derive(Serialize)]
struct Row {
    sigma: String,
    before: String,
    after: String,
    change: String,
}

#[derive(Serialize)]
struct Figure {
    label: &'static str,
    value: String,
}

/// Writes the report of a run, atomically. It needs no other file and no network.
///
/// # Errors
/// `IO` when a sample image cannot be read or the report cannot be written.
pub fn write_report(recipe: &Recipe, events: &[Event], summary: &TrainSummary, path: &Path) -> Result<()> {
    let html = render(recipe, events, summary)?;
    Ok(atomic::write_file(path, html.as_bytes())?)
}

fn render(recipe: &Recipe, events: &[Event], summary: &TrainSummary) -> Result<String> {
    let internal = |e: minijinja::Error| Error::Internal(format!("report: {e:#}"));
    let yaml = serde_norway::to_string(recipe).map_err(|e| Error::Internal(format!("recipe to YAML: {e}")))?;
    let mut environment = Environment::new();
    environment.set_auto_escape_callback(|_| AutoEscape::Html);
    environment.add_template("report", TEMPLATE).map_err(internal)?;
    let context = context! {
        title => name_of(&summary.run_dir),
        figures => Value::from(Serde(figures(events, summary))),
        pairs => Value::from(Serde(pairs(recipe, summary)?)),
        rows => Value::from(Serde(rows(events))),
        warnings => warnings(events),
        plot => draw_plot(events)?,
        recipe => yaml,
        version => env!("CARGO_PKG_VERSION"),
    };
    environment.get_template("report").and_then(|t| t.render(context)).map_err(internal)
}

fn name_of(path: &Path) -> String {
    path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned()
}

fn figures(events: &[Event], summary: &TrainSummary) -> Vec<Figure> {
    let mut figures = vec![Figure { label: "steps", value: summary.steps.to_string() }];
    let parameters = events.iter().rev().find_map(|event| match event {
        Event::Started { trainable_parameters, .. } => Some(*trainable_parameters),
        _ => None,
    });
    figures.extend(parameters.map(|n| Figure { label: "trained parameters", value: grouped(n) }));
    if let Some(seconds) = summary.training_seconds {
        figures.push(Figure { label: "training time", value: duration(seconds) });
    }
    if let (Some(before), Some(after)) = (summary.evaluation_before, summary.evaluation_after) {
        figures.push(Figure { label: "held-out loss before", value: format!("{before:.4}") });
        figures.push(Figure { label: "held-out loss after", value: format!("{after:.4}") });
        figures.push(Figure { label: "change", value: change(before, after) });
    }
    figures
}

fn pairs(recipe: &Recipe, summary: &TrainSummary) -> Result<Vec<Pair>> {
    let image = |paths: &[PathBuf], i: usize| paths.get(i).map(|path| data_uri(path)).transpose();
    let pair = |(i, prompt): (usize, &PromptRecipe)| {
        let (before, after) = (image(&summary.samples_before, i)?, image(&summary.samples_after, i)?);
        Ok(Pair { prompt: prompt.prompt.clone(), before, after })
    };
    recipe.validation.prompts.iter().enumerate().map(pair).collect()
}

fn data_uri(path: &Path) -> Result<String> {
    let bytes = fs::read(path).map_err(Error::io(path, "read"))?;
    Ok(format!("data:image/png;base64,{}", STANDARD.encode(bytes)))
}

/// The first and the last evaluation, σ by σ.
fn rows(events: &[Event]) -> Vec<Row> {
    let mut evaluations = events.iter().filter_map(|event| match event {
        Event::Evaluation { per_sigma, .. } => Some(per_sigma),
        _ => None,
    });
    let Some(first) = evaluations.next() else { return Vec::new() };
    let last = evaluations.next_back().unwrap_or(first);
    first
        .iter()
        .zip(last)
        .map(|(before, after)| Row {
            sigma: format!("{}", before.sigma),
            before: format!("{:.4}", before.loss),
            after: format!("{:.4}", after.loss),
            change: change(before.loss, after.loss),
        })
        .collect()
}

fn warnings(events: &[Event]) -> Vec<String> {
    let text = |event: &Event| match event {
        Event::Warning { code, message } => Some(format!("{code}: {message}")),
        _ => None,
    };
    events.iter().filter_map(text).collect()
}

fn change(before: f64, after: f64) -> String {
    format!("{:+.1} %", 100.0 * (after - before) / before)
}

fn duration(seconds: f64) -> String {
    let whole = seconds.round() as u64;
    match (whole / 3600, whole / 60 % 60, whole % 60) {
        (0, 0, _) => format!("{seconds:.1} s"),
        (0, m, s) => format!("{m} min {s} s"),
        (h, m, _) => format!("{h} h {m} min"),
    }
}

/// 1234567 → "1,234,567".
fn grouped(n: u64) -> String {
    let digits = n.to_string();
    let groups: Vec<&str> = digits.as_bytes().rchunks(3).rev().filter_map(|g| std::str::from_utf8(g).ok()).collect();
    groups.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::SigmaLoss;
    use crate::recipe::resolve_recipe;

    #[test]
    fn the_report_holds_everything_and_escapes_it() {
        let tmp = tempfile::tempdir().unwrap();
        let json = r#"{"model":{"path":"m"},"data":{"train":"d"},"train":{"steps":5},
            "validation":{"prompts":["<b>a & b</b>"]}}"#;
        let recipe = resolve_recipe(json, tmp.path()).unwrap();
        let (before, after) = (tmp.path().join("before.png"), tmp.path().join("after.png"));
        fs::write(&before, b"one").unwrap();
        fs::write(&after, b"two").unwrap();
        let evaluation = |step, loss| Event::Evaluation { step, loss, per_sigma: vec![SigmaLoss { sigma: 0.3, loss }] };
        let started = Event::Started { run_dir: "/r".into(), total_steps: 5, trainable_parameters: 1_234_567 };
        let events =
            [started, evaluation(0, 1.0), evaluation(3, 0.9), evaluation(5, 0.75), Event::warning("X", "careful")];
        let summary = TrainSummary {
            run_dir: tmp.path().to_path_buf(),
            steps: 5,
            evaluation_before: Some(1.0),
            evaluation_after: Some(0.75),
            samples_before: vec![before],
            samples_after: vec![after],
            training_seconds: Some(75.0),
            ..TrainSummary::default()
        };
        let path = tmp.path().join("report.html");
        write_report(&recipe, &events, &summary, &path).unwrap();
        let html = fs::read_to_string(path).unwrap();
        for text in [
            "&lt;b&gt;a &amp; b&lt;&#x2f;b&gt;",
            "data:image&#x2f;png;base64,b25l",
            "data:image&#x2f;png;base64,dHdv",
            "1,234,567",
            "1 min 15 s",
            "-25.0 %",
            "<svg",
            "steps: 5",
            "careful",
        ] {
            assert!(html.contains(text), "{text}\n{html}");
        }
        assert!(!html.contains("<b>a"), "no markup of the user's");
        let namespace = "http://www.w3.org/2000/svg";
        assert!(!html.replace(namespace, "").contains("http"), "nothing from the network");
    }

    #[test]
    fn a_run_without_samples_and_evaluation_has_a_report() {
        let tmp = tempfile::tempdir().unwrap();
        let json = r#"{"model":{"path":"m"},"data":{"train":"d"},"train":{"steps":5}}"#;
        let recipe = resolve_recipe(json, tmp.path()).unwrap();
        let html = render(&recipe, &[], &TrainSummary::default()).unwrap();
        assert!(html.contains("<svg") && !html.contains("<img") && !html.contains("<table"));
    }

    #[test]
    fn figures_are_readable() {
        assert_eq!(["1", "12", "123", "1,234"].map(String::from), [1, 12, 123, 1234].map(grouped));
        assert_eq!([3.25, 61.0, 7260.0].map(duration), ["3.2 s", "1 min 1 s", "2 h 1 min"]);
    }
}
