//! Images and their captions: a `.txt` of the same name beside each, or a table (`metadata.jsonl`, `metadata.csv`).

mod table;

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::image::check_image;
use table::{Row, read_table};

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

/// What stands in captions for the trigger word.
const TRIGGER: &str = "[trigger]";

/// How a dataset is read.
#[derive(Debug, Clone, Default)]
pub struct DatasetOptions {
    /// What to do with an image or a caption that cannot be read.
    pub on_bad_file: OnBadFile,
    /// The word for what is taught: it takes the place of `[trigger]` in captions, and precedes those without.
    pub trigger: Option<String>,
    /// Caption of images that have none.
    pub default_caption: Option<String>,
}

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

/// Captioned images, in an order that depends on their paths, or their table, alone.
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
    /// Lists the images of `sources`, one after the other. A folder's (not its subfolders') come by name, numbers by their
    /// value; other files, as credits, are ignored. Where it has a `metadata.jsonl` or `metadata.csv`, as the datasets
    /// library writes them, captions of the images named there are from it. A `.jsonl` or `.csv` file of that form may be a
    /// source itself; its images come in its order. The header of every image is read, not yet its pixels.
    ///
    /// # Errors
    /// `DATA_UNREADABLE` naming a source that is absent or has no images, an image that is none, a row without its fields,
    /// or a caption that is absent, empty or not UTF-8. Under [`OnBadFile::Skip`] only the source's errors, and when
    /// nothing is left.
    pub fn open(sources: &[PathBuf], options: &DatasetOptions) -> Result<Self> {
        let mut dataset = Self { on_bad_file: options.on_bad_file, ..Self::default() };
        let mut seen = HashSet::new();
        for source in sources {
            for row in rows(source)? {
                let item = row.and_then(|row| match seen.insert(row.image.clone()) {
                    true => item(row, options).map(Some),
                    false => Ok(None),
                });
                dataset.add(item)?;
            }
        }
        if dataset.items.is_empty() {
            let first = sources.first().map_or(Path::new("."), PathBuf::as_path);
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

/// Images of a source, with the captions that a table gives them.
fn rows(source: &Path) -> Result<Vec<Result<Row>>> {
    if table::is_table(source) {
        let rows = read_table(source)?;
        return match rows.is_empty() {
            true => Err(Error::unreadable(source, "has no rows; write one for each image")),
            false => Ok(rows),
        };
    }
    let images = list_images(source)?;
    let Some(table) = table::of_folder(source) else {
        if images.is_empty() {
            let reason = format!("has no images ({}); put some there, each with a .txt caption", IMAGES.join(", "));
            return Err(Error::unreadable(source, reason));
        }
        return Ok(images.into_iter().map(|image| Ok(Row { image, caption: None })).collect());
    };
    let rows = read_table(&table)?;
    let named: HashSet<PathBuf> = rows.iter().flatten().map(|row| row.image.clone()).collect();
    let others = images.into_iter().filter(|image| !named.contains(image));
    let others: Vec<_> = others.map(|image| Ok(Row { image, caption: None })).collect();
    Ok(rows.into_iter().chain(others).collect())
}

/// The image of a row with its caption: the table's, that of its `.txt`, or the default.
fn item(Row { image, caption }: Row, options: &DatasetOptions) -> Result<Item> {
    check_image(&image)?;
    let caption = match (caption, &options.default_caption) {
        (Some(caption), _) => caption,
        (None, Some(default)) if !image.with_extension("txt").exists() => default.clone(),
        (None, _) => read_caption(&image)?,
    };
    Ok(Item { caption: options.with_trigger(&caption), image })
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
            let reason = format!("has no caption; write one into {}, or set data.defaultCaption", path.display());
            Error::unreadable(image, reason)
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
        Dataset::open(&[dir.path().to_path_buf()], &DatasetOptions { on_bad_file, ..DatasetOptions::default() })
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

    fn captions_of(source: &Path, options: &DatasetOptions) -> Vec<(String, String)> {
        let name = |item: &Item| item.image.file_name().unwrap().to_string_lossy().into_owned();
        let dataset = Dataset::open(&[source.to_path_buf()], options).unwrap();
        dataset.items.iter().map(|item| (name(item), item.caption.clone())).collect()
    }

    #[test]
    fn tables_give_captions() {
        let image = png(2, 2, [1, 2, 3, 255]);
        let images: [(&str, &[u8]); 4] =
            [("b.png", &image), ("a.png", &image), ("c.png", &image), ("c.txt", b"beside")];
        let jsonl = "\u{feff}{\"file_name\": \"b.png\", \"text\": \" of b \"}\n\n{\"file_name\": \"a.png\", \"caption\": \"of a\", \"n\": 1}\n";
        let csv = "file_name,text,source\r\nb.png,\" of b \",x\r\na.png,of a,\"y, z\"\r\n";
        for (table, text) in [("metadata.jsonl", jsonl), ("metadata.csv", csv)] {
            let dir = folder(&[&images[..], &[(table, text.as_bytes())]].concat());
            let pair = |a: &str, b: &str| (a.to_owned(), b.to_owned());
            let named = vec![pair("b.png", "of b"), pair("a.png", "of a")];
            assert_eq!(captions_of(&dir.path().join(table), &DatasetOptions::default()), named, "{table}");
            // The folder's other images have theirs beside them.
            let all = [named, vec![pair("c.png", "beside")]].concat();
            assert_eq!(captions_of(dir.path(), &DatasetOptions::default()), all, "{table}");
        }
    }

    #[test]
    fn rows_that_cannot_be_read_are_told_by_their_line() {
        let image = png(2, 2, [1, 2, 3, 255]);
        let good = "{\"file_name\": \"a.png\", \"text\": \"a\"}\n";
        let cases = [
            ("t.jsonl", format!("{good}{{\"text\": \"no file\"}}\n"), "line 2"),
            ("t.jsonl", format!("{good}not json\n"), "line 2"),
            ("t.jsonl", format!("{good}{{\"file_name\": \"a.png\", \"text\": 3}}\n"), "line 2"),
            ("t.jsonl", format!("{good}{{\"file_name\": \"absent.png\", \"text\": \"x\"}}\n"), "absent.png"),
            ("t.csv", "file_name,text\na.png,a\n,b\n".to_owned(), "line 3"),
            ("t.csv", "file_name,text\na.png,a\nb.png,x,y\n".to_owned(), "line 3"),
        ];
        for (name, text, told) in cases {
            let dir = folder(&[("a.png", &image), (name, text.as_bytes())]);
            let source = [dir.path().join(name)];
            let error = Dataset::open(&source, &DatasetOptions::default()).unwrap_err();
            assert_eq!(error.code(), "DATA_UNREADABLE");
            assert!(error.to_string().contains(told), "{error}");
            let skipping = DatasetOptions { on_bad_file: OnBadFile::Skip, ..DatasetOptions::default() };
            let dataset = Dataset::open(&source, &skipping).unwrap();
            assert_eq!((dataset.items.len(), dataset.skipped.len()), (1, 1), "{text}");
        }
        let dir = folder(&[("a.png", &image), ("t.csv", b"name,words\na.png,a\n"), ("empty.jsonl", b"\n")]);
        for (name, told) in [("t.csv", "file_name"), ("empty.jsonl", "no rows"), ("none.csv", "does not exist")] {
            let error = Dataset::open(&[dir.path().join(name)], &DatasetOptions::default()).unwrap_err();
            assert!(error.to_string().contains(told), "{error}");
        }
    }

    #[test]
    fn the_trigger_word_is_in_every_caption_and_the_default_where_there_is_none() {
        let image = png(2, 2, [1, 2, 3, 255]);
        let files: [(&str, &[u8]); 7] = [
            ("1.png", &image),
            ("1.txt", b"a photo of [trigger] asleep"),
            ("2.png", &image),
            ("2.txt", b"on the beach"),
            ("3.png", &image),
            ("3.txt", b"ohwx at home"),
            ("4.png", &image),
        ];
        let options = DatasetOptions {
            trigger: Some("ohwx".to_owned()),
            default_caption: Some("photo of [trigger]".to_owned()),
            ..DatasetOptions::default()
        };
        let captions: Vec<_> = captions_of(folder(&files).path(), &options).into_iter().map(|(_, text)| text).collect();
        assert_eq!(captions, ["a photo of ohwx asleep", "ohwx, on the beach", "ohwx at home", "photo of ohwx"]);
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
            let options = DatasetOptions { on_bad_file: OnBadFile::Skip, ..DatasetOptions::default() };
            let error = Dataset::open(&folders, &options).unwrap_err();
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
