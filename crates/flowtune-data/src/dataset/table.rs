//! Tables of images: JSON lines or CSV with the columns of the datasets library's `ImageFolder`.

use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::caption::trimmed;
use super::source::Row;
use crate::error::{Error, Result};

/// What a folder's table is called.
const NAMES: [&str; 2] = ["metadata.jsonl", "metadata.csv"];

/// Columns of the image, of its captions, its mask and its references. Others may stand beside them.
const IMAGE: [&str; 3] = ["file_name", "image", "path"];
const TEXT: [&str; 3] = ["text", "caption", "prompt"];
const MASK: [&str; 1] = ["mask"];
const REFERENCES: [&str; 2] = ["references", "reference"];

/// A field: nothing, one text or several.
#[derive(Debug, Default, Deserialize)]
#[serde(untagged)]
enum Texts {
    #[default]
    None,
    One(String),
    Many(Vec<String>),
}

impl Texts {
    fn into_vec(self) -> Vec<String> {
        trimmed(match self {
            Self::None => Vec::new(),
            Self::One(text) => vec![text],
            Self::Many(texts) => texts,
        })
    }
}

/// Whether a source is a table by its name.
pub(super) fn is_table(source: &Path) -> bool {
    let extension = source.extension().unwrap_or_default().to_string_lossy().to_lowercase();
    matches!(extension.as_str(), "jsonl" | "csv") && !source.is_dir()
}

/// The table in a folder.
pub(super) fn of_folder(folder: &Path) -> Option<PathBuf> {
    NAMES.iter().map(|name| folder.join(name)).find(|table| table.is_file())
}

/// The rows of a table; what is wrong with one names its line. Files are relative to the table's folder.
pub(super) fn read_table(table: &Path) -> Result<Vec<Result<Row>>> {
    let bytes = fs::read(table).map_err(|e| match e.kind() {
        std::io::ErrorKind::NotFound => Error::unreadable(table, "does not exist"),
        _ => Error::unreadable(table, format!("cannot be read ({e})")),
    })?;
    let text = String::from_utf8(bytes).map_err(|_| Error::unreadable(table, "is not UTF-8 text; save it as UTF-8"))?;
    let text = text.trim_start_matches('\u{feff}');
    let csv = table.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("csv"));
    if csv { csv_rows(table, text) } else { Ok(json_rows(table, text)) }
}

fn json_rows(table: &Path, text: &str) -> Vec<Result<Row>> {
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    let rows = lines.map(|(i, line)| {
        let fields = serde_json::from_str::<serde_json::Map<String, serde_json::Value>>(line);
        let row = fields.map_err(|e| e.to_string()).and_then(|fields| {
            row(table, |columns| match columns.iter().find_map(|&name| Some((name, fields.get(name)?))) {
                None => Ok(Vec::new()),
                Some((name, value)) => serde_json::from_value::<Texts>(value.clone())
                    .map(Texts::into_vec)
                    .map_err(|_| format!("`{name}` must be a text or a list of texts, got {value}")),
            })
        });
        row.map_err(|problem| at_line(table, i as u64 + 1, &problem))
    });
    rows.collect()
}

fn csv_rows(table: &Path, text: &str) -> Result<Vec<Result<Row>>> {
    let mut reader = csv::Reader::from_reader(text.as_bytes());
    let headers = reader.headers().map_err(|e| Error::unreadable(table, format!("is not a CSV table ({e})")))?.clone();
    if !headers.iter().any(|header| IMAGE.contains(&header)) {
        let reason = "has no column file_name; its first line must name the columns: file_name,text";
        return Err(Error::unreadable(table, reason));
    }
    let rows = reader.records().map(|record| {
        let record = record.map_err(|e| (e.position().map_or(0, csv::Position::line), e.to_string()));
        let (line, row) = match record {
            Ok(record) => {
                let field = |name: &str| headers.iter().position(|h| h == name).and_then(|i| record.get(i));
                let one = |columns: &[&str]| columns.iter().find_map(|name| field(name)).map(str::to_owned);
                let line = record.position().map_or(0, csv::Position::line);
                (line, row(table, |columns| Ok(trimmed(one(columns)))))
            }
            Err((line, problem)) => (line, Err(problem)),
        };
        row.map_err(|problem| at_line(table, line, &problem))
    });
    Ok(rows.collect())
}

/// A row from what `texts` finds in the first of some columns.
fn row(table: &Path, texts: impl Fn(&[&str]) -> Result<Vec<String>, String>) -> Result<Row, String> {
    let folder = table.parent().unwrap_or(Path::new(""));
    let files = |columns: &[&str]| -> Result<Vec<PathBuf>, String> {
        Ok(texts(columns)?.into_iter().map(|name| folder.join(name)).collect())
    };
    let image = files(&IMAGE)?.into_iter().next().ok_or("names no image")?;
    let mask = files(&MASK)?.into_iter().next();
    Ok(Row { image, captions: texts(&TEXT)?, mask, references: files(&REFERENCES)? })
}

fn at_line(table: &Path, line: u64, problem: &str) -> Error {
    Error::unreadable(table, format!("line {line}: {problem}; a row needs `file_name`, and `text` for its caption"))
}
