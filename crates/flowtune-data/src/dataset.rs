//! Images with what belongs to each: captions, a mask, reference images.

mod caption;
mod companions;
mod source;
mod table;

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::image::check_image;
pub use source::Source;
use source::{Row, rows};

/// What to do with an image or a caption that cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnBadFile {
    /// Stop at the first.
    #[default]
    Fail,
    /// Leave it out and report it.
    Skip,
}

/// An image and what belongs to it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Item {
    /// The image file.
    pub image: PathBuf,
    /// Its captions, at least one, each trimmed and not empty.
    pub captions: Vec<String>,
    /// White where the image is trained on, black where it is not.
    pub mask: Option<PathBuf>,
    /// What the model sees beside the caption, in order.
    pub references: Vec<PathBuf>,
    /// Which of the sources it is from.
    pub source: usize,
}

/// A file that was left out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Skipped {
    /// The image or caption.
    pub path: PathBuf,
    /// Why, naming the file.
    pub message: String,
}

/// How a dataset is read.
#[derive(Debug, Clone, Default)]
pub struct DatasetOptions {
    /// What to do with an image or a caption that cannot be read.
    pub on_bad_file: OnBadFile,
    /// The word for what is taught: it takes the place of `[trigger]` in captions, and precedes those without.
    pub trigger: Option<String>,
    /// Caption of images that have none.
    pub default_caption: Option<String>,
    /// Whether each line of a `.txt` is a caption of its own.
    pub caption_per_line: bool,
}

/// Captioned images, in an order that depends on their paths, or their table, alone.
#[derive(Debug, Clone, Default)]
pub struct Dataset {
    /// The images.
    pub items: Vec<Item>,
    /// Where they are from.
    pub sources: Vec<Source>,
    /// What was left out under [`OnBadFile::Skip`].
    pub skipped: Vec<Skipped>,
    /// What to do with images that turn out to be damaged when they are decoded.
    pub on_bad_file: OnBadFile,
}

impl Dataset {
    /// Lists the images of `sources`, one after the other; an image that comes again is passed over. The header of every
    /// image is read, not yet its pixels. See [`Source`] for what a source may be.
    ///
    /// # Errors
    /// `DATA_UNREADABLE` naming a source that is absent or has no images, an image that is none, a row without its fields,
    /// or a caption that is absent, empty or not UTF-8. Under [`OnBadFile::Skip`] only the source's errors, and when
    /// nothing is left.
    pub fn open(sources: &[Source], options: &DatasetOptions) -> Result<Self> {
        let mut dataset = Self { on_bad_file: options.on_bad_file, sources: sources.to_vec(), ..Self::default() };
        let mut seen = HashSet::new();
        for (index, source) in sources.iter().enumerate() {
            for row in rows(source)? {
                let item = row.and_then(|row| match seen.insert(row.image.clone()) {
                    true => item(row, index, options).map(Some),
                    false => Ok(None),
                });
                dataset.add(item)?;
            }
        }
        if dataset.items.is_empty() {
            let first = sources.first().map_or(Path::new("."), |source| &source.path);
            let why = dataset.skipped.first().map(|s| format!("; the first problem: {}", s.message));
            return Err(Error::unreadable(first, format!("has no usable image{}", why.unwrap_or_default())));
        }
        Ok(dataset)
    }

    fn add(&mut self, item: Result<Option<Item>>) -> Result<()> {
        match item {
            Ok(item) => self.items.extend(item),
            Err(Error::Unreadable { path, reason }) if self.on_bad_file == OnBadFile::Skip => {
                self.skipped.push(Skipped { message: format!("{}: {reason}", path.display()), path });
            }
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// All captions, as often as they come.
    pub fn captions(&self) -> impl Iterator<Item = &str> {
        self.items.iter().flat_map(|item| item.captions.iter().map(String::as_str))
    }

    /// Moves `count` images, spread evenly, into a dataset of their own: the held-out images. The same images every
    /// time, whatever the seed.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` when none would be left to train on.
    pub fn split_off(&mut self, count: usize) -> Result<Self> {
        let total = self.items.len();
        if count >= total {
            return Err(Error::InvalidArgument(format!(
                "data.heldOutCount is {count}, but there are only {total} images, and some must be left to train on"
            )));
        }
        let held: HashSet<usize> = (0..count).map(|i| (2 * i + 1) * total / (2 * count)).collect();
        let (mut held_out, mut kept) = (Vec::new(), Vec::new());
        for (i, item) in std::mem::take(&mut self.items).into_iter().enumerate() {
            if held.contains(&i) { held_out.push(item) } else { kept.push(item) }
        }
        self.items = kept;
        let sources = self.sources.clone();
        Ok(Self { items: held_out, sources, skipped: Vec::new(), on_bad_file: self.on_bad_file })
    }
}

/// The image of a row, with its captions and what else belongs to it.
fn item(row: Row, source: usize, options: &DatasetOptions) -> Result<Item> {
    check_image(&row.image)?;
    row.mask.iter().chain(&row.references).try_for_each(|file| check_image(file))?;
    let captions = caption::of(&row, options)?;
    let Row { image, mask, references, .. } = row;
    Ok(Item { image, captions, mask, references, source })
}

#[cfg(test)]
mod hostile;
#[cfg(test)]
mod tests;
