//! Tables of images and captions: JSON lines or CSV with the columns of the datasets library's `ImageFolder`.

use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::error::{Error, Result};

/// What a folder's table is called.
const NAMES: [&str; 2] = ["metadata.jsonl", "metadata.csv"];

/// An image, and the caption that its table gives it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Row {
    pub(super) image: PathBuf,
    pub(super) caption: Option<String>,
}

/// A row's fields that count. Others may stand beside them.
#[derive(Deserialize)]
struct Fields {
    #[serde(alias = "image", alias = "path", default)]
    file_name: String,
    #[serde(alias = "caption", alias = "prompt")]
    text: Option<String>,
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

/// The rows of a table; what is wrong with one names its line. Images are relative to the table's folder.
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
    lines.map(|(i, line)| row(table, i as u64 + 1, serde_json::from_str(line).map_err(|e| e.to_string()))).collect()
}

fn csv_rows(table: &Path, text: &str) -> Result<Vec<Result<Row>>> {
    let mut reader = csv::Reader::from_reader(text.as_bytes());
    let headers = reader.headers().map_err(|e| Error::unreadable(table, format!("is not a CSV table ({e})")))?.clone();
    if !headers.iter().any(|header| ["file_name", "image", "path"].contains(&header)) {
        let reason = "has no column file_name; its first line must name the columns: file_name,text";
        return Err(Error::unreadable(table, reason));
    }
    let rows = reader.records().map(|record| {
        let record = record.map_err(|e| (e.position().map_or(0, csv::Position::line), e.to_string()));
        match record {
            Ok(record) => {
                let line = record.position().map_or(0, csv::Position::line);
                row(table, line, record.deserialize(Some(&headers)).map_err(|e| e.to_string()))
            }
            Err((line, problem)) => row(table, line, Err(problem)),
        }
    });
    Ok(rows.collect())
}

fn row(table: &Path, line: u64, fields: Result<Fields, String>) -> Result<Row> {
    let wrong = |problem: &str| {
        let reason = format!("line {line} {problem}; a row needs `file_name`, and `text` for its caption");
        Error::unreadable(table, reason)
    };
    let Fields { file_name, text } = fields.map_err(|problem| wrong(&format!("cannot be read ({problem})")))?;
    if file_name.is_empty() {
        return Err(wrong("names no image"));
    }
    let caption = text.map(|text| text.trim().to_owned()).filter(|text| !text.is_empty());
    Ok(Row { image: table.parent().unwrap_or(Path::new("")).join(file_name), caption })
}
