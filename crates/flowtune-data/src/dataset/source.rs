//! Where images come from: a folder, or a table.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};

use super::companions::add_companions;
use super::table::{self, read_table};
use crate::error::{Error, Result};

/// Extensions of the images that are read.
const IMAGES: [&str; 5] = ["png", "jpg", "jpeg", "webp", "avif"];

/// A folder or a table of images.
///
/// A folder's images (not its subfolders') come by name, numbers by their value; other files, as credits, are ignored.
/// Where it has a `metadata.jsonl` or `metadata.csv`, as the datasets library writes them, what that says of an image
/// counts before what lies beside it. A `.jsonl` or `.csv` file of that form may be a source itself; its images come in
/// its order.
#[derive(Debug, Clone, PartialEq)]
pub struct Source {
    /// The folder or the table.
    pub path: PathBuf,
    /// Folder of masks: images of the same name, white where is trained, black where not.
    pub masks: Option<PathBuf>,
    /// Folders of reference images of the same name: the first references, the second, …
    pub references: Vec<PathBuf>,
    /// How often each image is seen while images of other sources are seen once.
    pub repeats: f64,
    /// Instead: share of all samples that are from here, against the weights of the other sources.
    pub weight: Option<f64>,
}

impl Source {
    /// The images of a folder or a table, each seen once.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), masks: None, references: Vec::new(), repeats: 1.0, weight: None }
    }
}

/// An image and what its source says of it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Row {
    pub(super) image: PathBuf,
    pub(super) captions: Vec<String>,
    pub(super) mask: Option<PathBuf>,
    pub(super) references: Vec<PathBuf>,
}

impl Row {
    fn of(image: PathBuf) -> Self {
        Self { image, ..Self::default() }
    }
}

/// Images of a source.
pub(super) fn rows(source: &Source) -> Result<Vec<Result<Row>>> {
    let mut rows = match table::is_table(&source.path) {
        true => read_table(&source.path)?,
        false => folder_rows(&source.path)?,
    };
    if rows.is_empty() {
        let reason = match table::is_table(&source.path) {
            true => "has no rows; write one for each image".to_owned(),
            false => format!("has no images ({}); put some there, each with a .txt caption", IMAGES.join(", ")),
        };
        return Err(Error::unreadable(&source.path, reason));
    }
    add_companions(source, &mut rows)?;
    Ok(rows)
}

/// Images of a folder's table, then the others.
fn folder_rows(folder: &Path) -> Result<Vec<Result<Row>>> {
    let images = list_images(folder)?;
    let mut rows = table::of_folder(folder).map_or_else(|| Ok(Vec::new()), |table| read_table(&table))?;
    let named: HashSet<PathBuf> = rows.iter().flatten().map(|row| row.image.clone()).collect();
    rows.extend(images.into_iter().filter(|image| !named.contains(image)).map(|image| Ok(Row::of(image))));
    Ok(rows)
}

pub(super) fn list_images(folder: &Path) -> Result<Vec<PathBuf>> {
    let unreadable = |e: std::io::Error| match e.kind() {
        std::io::ErrorKind::NotFound => Error::unreadable(folder, "does not exist"),
        std::io::ErrorKind::NotADirectory => Error::unreadable(folder, "is not a folder"),
        _ => Error::unreadable(folder, format!("cannot be listed ({e})")),
    };
    let mut images = Vec::new();
    for entry in fs::read_dir(folder).map_err(unreadable)? {
        let path = entry.map_err(unreadable)?.path();
        if is_image(&path) && path.is_file() {
            images.push(path);
        }
    }
    images.sort_by(|a, b| natord::compare(&a.to_string_lossy(), &b.to_string_lossy()).then_with(|| a.cmp(b)));
    Ok(images)
}

/// Whether the name is an image's; hidden files, as macOS's `._x.png`, are none.
fn is_image(path: &Path) -> bool {
    let hidden = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.'));
    let extension = path.extension().unwrap_or_default().to_string_lossy().to_lowercase();
    !hidden && IMAGES.contains(&extension.as_str())
}
