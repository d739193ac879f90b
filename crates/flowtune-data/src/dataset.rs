//! A folder of images with a `.txt` caption of the same name beside each.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::image::check_image;

/// Extensions of the images that are read.
const IMAGES: [&str; 4] = ["png", "jpg", "jpeg", "webp"];

/// What to do with an image or a caption that cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnBadFile {
    /// Stop at the first.
    #[default]
    Fail,
    /// Leave it out and report it.
    Skip,
}

/// An image with its caption.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    /// The image file.
    pub image: PathBuf,
    /// Its caption, trimmed, never empty.
    pub caption: String,
}

/// A file that was left out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Skipped {
    /// The image or caption.
    pub path: PathBuf,
    /// Why, naming the file.
    pub message: String,
}

/// Captioned images, in an order that depends on their paths alone.
#[derive(Debug, Clone, Default)]
pub struct Dataset {
    /// The images.
    pub items: Vec<Item>,
    /// What was left out under [`OnBadFile::Skip`].
    pub skipped: Vec<Skipped>,
    /// What to do with images that turn out to be damaged when they are decoded.
    pub on_bad_file: OnBadFile,
}

impl Dataset {
    /// Lists the images in `folders` (not in their subfolders): folder by folder in the given order, within each by
    /// name, numbers by their value. Other files, as credits, are ignored. The header of every image is read, not yet
    /// its pixels.
    ///
    /// # Errors
    /// `DATA_UNREADABLE` naming a folder that is absent or has no images, an image that is none, or a caption that is
    /// absent, empty or not UTF-8. Under [`OnBadFile::Skip`] only the folder's errors, and when nothing is left.
    pub fn open(folders: &[PathBuf], on_bad_file: OnBadFile) -> Result<Self> {
        let mut dataset = Self { on_bad_file, ..Self::default() };
        let mut seen = HashSet::new();
        for folder in folders {
            let images = list_images(folder)?;
            if images.is_empty() {
                let reason = format!("has no images ({}); put some there, each with a .txt caption", IMAGES.join(", "));
                return Err(Error::unreadable(folder, reason));
            }
            for image in images.into_iter().filter(|image| seen.insert(image.clone())) {
                dataset.add(image)?;
            }
        }
        if dataset.items.is_empty() {
            let first = folders.first().map_or(Path::new("."), PathBuf::as_path);
            let why = dataset.skipped.first().map(|s| format!("; the first problem: {}", s.message));
            return Err(Error::unreadable(first, format!("has no usable image{}", why.unwrap_or_default())));
        }
        Ok(dataset)
    }

    fn add(&mut self, image: PathBuf) -> Result<()> {
        match check_image(&image).and_then(|()| read_caption(&image)) {
            Ok(caption) => self.items.push(Item { image, caption }),
            Err(Error::Unreadable { path, reason }) if self.on_bad_file == OnBadFile::Skip => {
                self.skipped.push(Skipped { message: format!("{}: {reason}", path.display()), path });
            }
            Err(error) => return Err(error),
        }
        Ok(())
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
        Ok(Self { items: held_out, skipped: Vec::new(), on_bad_file: self.on_bad_file })
    }
}

fn list_images(folder: &Path) -> Result<Vec<PathBuf>> {
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

fn read_caption(image: &Path) -> Result<String> {
    let path = image.with_extension("txt");
    let bytes = fs::read(&path).map_err(|e| match e.kind() {
        std::io::ErrorKind::NotFound => {
            Error::unreadable(image, format!("has no caption; write one into {}", path.display()))
        }
        _ => Error::unreadable(&path, format!("cannot be read ({e})")),
    })?;
    let text = String::from_utf8(bytes).map_err(|_| Error::unreadable(&path, "is not UTF-8 text; save it as UTF-8"))?;
    let caption = text.trim_start_matches('\u{feff}').trim();
    if caption.is_empty() {
        return Err(Error::unreadable(&path, "is empty; write what the image shows"));
    }
    Ok(caption.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::tests::png;

    fn folder(files: &[(&str, &[u8])]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (name, bytes) in files {
            fs::write(dir.path().join(name), bytes).unwrap();
        }
        dir
    }

    fn open(dir: &tempfile::TempDir, on_bad_file: OnBadFile) -> Result<Dataset> {
        Dataset::open(&[dir.path().to_path_buf()], on_bad_file)
    }

    #[test]
    fn images_come_in_natural_order_and_other_files_are_ignored() {
        let image = png(2, 2, [1, 2, 3, 255]);
        let files: &[(&str, &[u8])] = &[
            ("10.png", &image),
            ("10.txt", b"ten"),
            ("9.PNG", &image),
            ("9.txt", "\u{feff} nine \n".as_bytes()),
            ("CREDITS.md", b"thanks"),
            ("orphan.txt", b"no image"),
            ("._9.png", b"finder"),
        ];
        let captions: Vec<_> =
            open(&folder(files), OnBadFile::Fail).unwrap().items.into_iter().map(|i| i.caption).collect();
        assert_eq!(captions, ["nine", "ten"]);
    }

    #[test]
    fn bad_files_are_named_or_skipped() {
        let image = png(2, 2, [1, 2, 3, 255]);
        type Files<'a> = &'a [(&'a str, &'a [u8])];
        let cases: [(&str, Files, &str); 5] = [
            ("2.png", &[("2.png", b"not an image"), ("2.txt", b"two")], "not an image"),
            ("2.png", &[("2.png", &image[..20]), ("2.txt", b"two")], "not an image"),
            ("2.png", &[("2.png", &image)], "has no caption"),
            ("2.txt", &[("2.png", &image), ("2.txt", b" \n ")], "is empty"),
            ("2.txt", &[("2.png", &image), ("2.txt", &[0xff, 0xfe])], "not UTF-8"),
        ];
        for (culprit, bad, reason) in cases {
            let good: [(&str, &[u8]); 2] = [("1.png", &image), ("1.txt", b"one")];
            let dir = folder(&[&good, bad].concat());
            let error = open(&dir, OnBadFile::Fail).unwrap_err();
            assert_eq!(error.code(), "DATA_UNREADABLE");
            assert!(error.to_string().contains(culprit) && error.to_string().contains(reason), "{error}");
            let dataset = open(&dir, OnBadFile::Skip).unwrap();
            assert_eq!((dataset.items.len(), dataset.skipped.len()), (1, 1));
            assert!(dataset.skipped[0].path.ends_with(culprit), "{:?}", dataset.skipped);
        }
    }

    #[test]
    fn folders_without_images_are_errors_even_when_skipping() {
        let empty = folder(&[("notes.txt", b"x")]);
        let all_bad = folder(&[("1.png", b"x"), ("1.txt", b"one")]);
        for (folders, reason) in [
            (vec![empty.path().to_path_buf()], "has no images"),
            (vec![empty.path().join("absent")], "does not exist"),
            (vec![empty.path().join("notes.txt")], "is not a folder"),
            (vec![all_bad.path().to_path_buf()], "no usable image"),
        ] {
            let error = Dataset::open(&folders, OnBadFile::Skip).unwrap_err();
            assert_eq!(error.code(), "DATA_UNREADABLE");
            assert!(error.to_string().contains(reason), "{error}");
        }
    }

    #[test]
    fn held_out_images_are_spread_and_leave_the_rest() {
        let item = |i: usize| Item { image: format!("{i}.png").into(), caption: i.to_string() };
        let mut dataset = Dataset { items: (0..10).map(item).collect(), ..Dataset::default() };
        let held: Vec<_> = dataset.split_off(2).unwrap().items.into_iter().map(|i| i.caption).collect();
        assert_eq!(held, ["2", "7"]);
        assert_eq!(dataset.items.len(), 8);
        assert_eq!(dataset.split_off(8).unwrap_err().code(), "INVALID_ARGUMENT");
        assert_eq!(dataset.items.len(), 8);
    }
}
