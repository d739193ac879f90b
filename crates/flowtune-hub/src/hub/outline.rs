//! What a pipeline's weights are, without the weights.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::Path;

use serde::Deserialize;
use serde_json::{Map, Value};
use tempfile::TempDir;

use super::{Hub, Version};
use crate::client::Failure;
use crate::error::{Error, Result};
use crate::observer::Observer;
use crate::reference::{HubFile, HubModel};
use crate::select::{self, Part};

/// Longest header of a safetensors file, as the format's own reader has it.
const MAX_HEADER: u64 = 100_000_000;

impl Hub {
    /// A folder like [`Hub::pipeline`]'s of these parts, in which a file of weights is as long as the real one but holds
    /// only its header: names, types and shapes. The configuration comes into the cache; no weights are fetched.
    ///
    /// # Errors
    /// As [`Hub::pipeline`]; `HUB_CORRUPT` for weights without a header.
    pub fn outline(&self, model: &HubModel, parts: &[Part], observer: &dyn Observer) -> Result<TempDir> {
        let mut version = self.version(model, observer)?;
        version.describe(parts)?;
        let folder = temporary_folder()?;
        for name in select::descriptions(&version.listing.names, parts) {
            let (from, to) = (version.path(name), place(folder.path(), name)?);
            fs::copy(&from, &to).map_err(Error::io(&to, "write"))?;
        }
        for &part in parts {
            for name in version.weights(part)? {
                version.write_header(&name, folder.path())?;
            }
        }
        Ok(folder)
    }

    /// As [`Hub::outline`] for one safetensors file; gives a folder that holds it under its name.
    ///
    /// # Errors
    /// As [`Hub::outline`].
    pub fn outline_of_file(&self, file: &HubFile, observer: &dyn Observer) -> Result<TempDir> {
        let version = self.version(&file.model, observer)?;
        version.check_has(file)?;
        let folder = temporary_folder()?;
        version.write_header(&file.name, folder.path())?;
        Ok(folder)
    }
}

impl Version<'_> {
    fn write_header(&self, name: &str, folder: &Path) -> Result<()> {
        let corrupt = |problem: &str| {
            let (id, commit) = (&self.model.id, &self.listing.commit);
            Error::Corrupt(format!("{id}@{commit}: {name} {problem}; it is no safetensors file"))
        };
        let path = self.path(name);
        let header = match self.cache.has(&self.listing.commit, name) {
            true => File::open(&path).and_then(read_header).map_err(Error::io(&path, "read"))?,
            false if self.is_alone() => return Err(self.lacks(name, String::new)),
            false => self.client.retry(self.observer, || self.ask_header(name))?,
        };
        let header = header.ok_or_else(|| corrupt("begins with no header"))?;
        let end = end_of_data(&header).ok_or_else(|| corrupt("has a header that cannot be read"))?;
        let to = place(folder, name)?;
        write_sparse(&to, &header, end).map_err(Error::io(&to, "write"))
    }

    /// The header from the hub. The rest is not read: the connection ends with the answer.
    fn ask_header(&self, name: &str) -> Result<Option<Vec<u8>>, Failure> {
        let url = self.client.file_url(&self.model.id, &self.listing.commit, name);
        let response = self.client.get(&url, 0, self.model)?;
        read_header(response.into_body().into_reader()).map_err(Failure::transient)
    }
}

/// The header of a safetensors file; none where what is there is too long for one.
fn read_header(mut file: impl Read) -> std::io::Result<Option<Vec<u8>>> {
    let mut length = [0; 8];
    file.read_exact(&mut length)?;
    let length = u64::from_le_bytes(length);
    if length > MAX_HEADER {
        return Ok(None);
    }
    // Grows with what comes, whatever was promised.
    let mut header = Vec::new();
    file.take(length).read_to_end(&mut header)?;
    Ok((header.len() as u64 == length).then_some(header))
}

#[derive(Deserialize)]
struct Extent {
    data_offsets: (u64, u64),
}

/// Bytes of data that a header speaks of.
fn end_of_data(header: &[u8]) -> Option<u64> {
    let entries: Map<String, Value> = serde_json::from_slice(header).ok()?;
    let tensors = entries.into_iter().filter(|(name, _)| name != "__metadata__");
    let ends = tensors.map(|(_, entry)| Some(serde_json::from_value::<Extent>(entry).ok()?.data_offsets.1));
    ends.collect::<Option<Vec<u64>>>().map(|ends| ends.into_iter().max().unwrap_or(0))
}

/// What was never written takes no room on the disk.
fn write_sparse(path: &Path, header: &[u8], data: u64) -> std::io::Result<()> {
    let mut file = File::create(path)?;
    file.write_all(&(header.len() as u64).to_le_bytes())?;
    file.write_all(header)?;
    let length = (8 + header.len() as u64).saturating_add(data);
    file.set_len(length)
}

/// Where `name` goes in `folder`, whose folders are made.
fn place(folder: &Path, name: &str) -> Result<std::path::PathBuf> {
    let path = folder.join(name);
    let parent = path.parent().unwrap_or(folder);
    fs::create_dir_all(parent).map_err(Error::io(parent, "create"))?;
    Ok(path)
}

fn temporary_folder() -> Result<TempDir> {
    tempfile::tempdir().map_err(Error::io(&std::env::temp_dir(), "write to"))
}

#[cfg(test)]
mod tests;
