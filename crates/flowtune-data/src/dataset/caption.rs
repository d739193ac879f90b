//! Captions: from a table, from a `.txt` beside the image, or the default; with the trigger word in them.

use std::fs;
use std::path::Path;

use super::{DatasetOptions, Row};
use crate::error::{Error, Result};

/// What stands in captions for the trigger word.
const TRIGGER: &str = "[trigger]";

impl DatasetOptions {
    /// `text` with the trigger word in the place of `[trigger]`.
    pub fn expanded(&self, text: &str) -> String {
        self.trigger.as_ref().map_or_else(|| text.to_owned(), |word| text.replace(TRIGGER, word))
    }

    /// `text` with the trigger word in its place, or first.
    fn with_trigger(&self, text: &str) -> String {
        let expanded = self.expanded(text);
        match &self.trigger {
            Some(word) if !expanded.contains(word.as_str()) => format!("{word}, {expanded}"),
            _ => expanded,
        }
    }
}

/// The captions of a row: the table's, those beside the image, or the default.
pub(super) fn of(row: &Row, options: &DatasetOptions) -> Result<Vec<String>> {
    let captions = match &options.default_caption {
        _ if !row.captions.is_empty() => row.captions.clone(),
        Some(default) if !row.image.with_extension("txt").exists() => vec![default.clone()],
        _ => beside(&row.image, options.caption_per_line)?,
    };
    Ok(captions.iter().map(|caption| options.with_trigger(caption)).collect())
}

fn beside(image: &Path, per_line: bool) -> Result<Vec<String>> {
    let path = image.with_extension("txt");
    let bytes = fs::read(&path).map_err(|e| match e.kind() {
        std::io::ErrorKind::NotFound => {
            let reason = format!("has no caption; write one into {}, or set data.defaultCaption", path.display());
            Error::unreadable(image, reason)
        }
        _ => Error::unreadable(&path, format!("cannot be read ({e})")),
    })?;
    let text = String::from_utf8(bytes).map_err(|_| Error::unreadable(&path, "is not UTF-8 text; save it as UTF-8"))?;
    let text = text.trim_start_matches('\u{feff}');
    let captions = match per_line {
        true => trimmed(text.lines().map(str::to_owned)),
        false => trimmed([text.to_owned()]),
    };
    match captions.is_empty() {
        true => Err(Error::unreadable(&path, "is empty; write what the image shows")),
        false => Ok(captions),
    }
}

/// Captions without the space around them; empty ones are none.
pub(super) fn trimmed(captions: impl IntoIterator<Item = String>) -> Vec<String> {
    captions.into_iter().map(|text| text.trim().to_owned()).filter(|text| !text.is_empty()).collect()
}
