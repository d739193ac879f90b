//! Masks and reference images: files of an image's name in other folders.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use super::source::{Row, Source, list_images};
use crate::error::{Error, Result};

/// Gives every row the mask and the references that its source's folders have for it. What a table says stays.
///
/// # Errors
/// `DATA_UNREADABLE` naming a folder that cannot be listed, or that has nothing for any image.
pub(super) fn add_companions(source: &Source, rows: &mut [Result<Row>]) -> Result<()> {
    if let Some(folder) = &source.masks {
        let masks = by_stem(folder, rows)?;
        for row in rows.iter_mut().flatten().filter(|row| row.mask.is_none()) {
            row.mask = masks.get(stem(&row.image)).cloned();
        }
    }
    let folders = source.references.iter().map(|folder| by_stem(folder, rows)).collect::<Result<Vec<_>>>()?;
    if folders.is_empty() {
        return Ok(());
    }
    for row in rows {
        let Ok(found) = row else { continue };
        if found.references.is_empty() {
            found.references = folders.iter().filter_map(|files| files.get(stem(&found.image)).cloned()).collect();
        }
        if found.references.is_empty() {
            let folder = source.references[0].display();
            let reason = format!("has no reference image; put one of the same name into {folder}");
            *row = Err(Error::unreadable(&found.image, reason));
        }
    }
    Ok(())
}

/// Images of a folder by their name without extension.
fn by_stem(folder: &Path, rows: &[Result<Row>]) -> Result<HashMap<Box<OsStr>, PathBuf>> {
    let files: HashMap<_, _> = list_images(folder)?.into_iter().map(|file| (Box::from(stem(&file)), file)).collect();
    match rows.iter().flatten().any(|row| files.contains_key(stem(&row.image))) {
        true => Ok(files),
        false => Err(Error::unreadable(folder, "has no image with the name of one that is trained on")),
    }
}

fn stem(path: &Path) -> &OsStr {
    path.file_stem().unwrap_or_default()
}
