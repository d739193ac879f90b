//! `events.jsonl`: one event a line, appended.

use std::collections::HashMap;
use std::fs::{self, File, TryLockError};
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use crate::error::{Error, Result};
use crate::event::Event;

/// The open file. Its lock keeps a second process from writing to the same run; it goes with the process.
#[derive(Debug)]
pub(super) struct EventFile {
    path: PathBuf,
    file: Mutex<File>,
}

impl EventFile {
    pub(super) fn open(path: &Path) -> Result<Self> {
        let cannot = || Error::io(path, "opened");
        let mut file = File::options().create(true).read(true).append(true).open(path).map_err(cannot())?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let reason = "another process is writing to this run; wait for it to end, or stop it";
                return Err(Error::layout(path, reason));
            }
            Err(TryLockError::Error(e)) => return Err(Error::io(path, "locked")(e)),
        }
        cut_unfinished_line(path, &mut file).map_err(cannot())?;
        Ok(Self { path: path.to_path_buf(), file: Mutex::new(file) })
    }

    pub(super) fn append(&self, event: &Event) -> Result<()> {
        let mut line = serde_json::to_vec(event).map_err(|e| Error::Internal(format!("event to JSON: {e}")))?;
        line.push(b'\n');
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        file.write_all(&line).map_err(Error::io(&self.path, "written"))
    }
}

/// Drops what a killed process wrote of its last line.
fn cut_unfinished_line(path: &Path, file: &mut File) -> std::io::Result<()> {
    let bytes = fs::read(path)?;
    let whole = bytes.iter().rposition(|&b| b == b'\n').map_or(0, |i| i + 1);
    if whole < bytes.len() {
        file.set_len(whole as u64)?;
    }
    file.seek(SeekFrom::End(0)).map(drop)
}

/// Reads the events; where a resume took a step again, what it said last stands, in the place of the first.
pub(super) fn read(path: &Path) -> Result<Vec<Event>> {
    let text = match fs::read_to_string(path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        text => text.map_err(Error::io(path, "read"))?,
    };
    let mut events: Vec<Event> = Vec::new();
    let mut places = HashMap::new();
    for event in text.lines().filter_map(|line| serde_json::from_str::<Event>(line).ok()) {
        match key(&event).and_then(|key| places.insert(key, events.len()).map(|place| (key, place))) {
            Some((key, place)) => {
                places.insert(key, place);
                events[place] = event;
            }
            None => events.push(event),
        }
    }
    Ok(events)
}

/// What makes two events the same.
fn key(event: &Event) -> Option<(&'static str, u64)> {
    match event {
        Event::Step { step, .. } => Some(("step", *step)),
        Event::Evaluation { step, .. } => Some(("evaluation", *step)),
        Event::Checkpoint { step, .. } => Some(("checkpoint", *step)),
        _ => None,
    }
}
