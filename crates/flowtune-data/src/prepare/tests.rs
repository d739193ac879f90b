use std::cell::{Cell, RefCell};

use super::*;
use crate::DatasetOptions;
use crate::image::tests::png;

/// Latents: two channels with the mean of red, and its negative. Counts its calls.
struct MeanRed(Cell<usize>);

impl ImageEncoder for MeanRed {
    fn encode(&self, images: &Tensor) -> Result<Tensor> {
        self.0.set(self.0.get() + 1);
        let plane = images.dim(2) * images.dim(3);
        let mean = images.to_f32_vec()?[..plane].iter().sum::<f32>() / plane as f32;
        Ok(Tensor::from_vec(vec![mean, -mean], &[1, 2, 1, 1])?)
    }

    fn fingerprint(&self) -> Result<String> {
        Ok("mean red".into())
    }
}

/// Embeddings: two tokens with the length of the caption. Counts its calls.
struct Length(Cell<usize>);

impl CaptionEncoder for Length {
    fn encode(&self, caption: &str) -> Result<Tensor> {
        self.0.set(self.0.get() + 1);
        Ok(Tensor::full(caption.len() as f32, &[2, 1]))
    }

    fn tokens(&self) -> usize {
        2
    }

    fn fingerprint(&self) -> Result<String> {
        Ok("length".into())
    }
}

/// A folder of images `n.png` whose red is 10·n, with captions of n + 1 letters, and counting encoders.
pub(crate) struct Fixture {
    dir: tempfile::TempDir,
    images: MeanRed,
    captions: Length,
    warnings: RefCell<Vec<(&'static str, String)>>,
    on_bad_file: OnBadFile,
}

impl Fixture {
    pub(crate) fn new(count: u8) -> Self {
        let dir = tempfile::tempdir().unwrap();
        for n in 0..count {
            fs::write(dir.path().join(format!("{n}.png")), png(20, 20, [10 * n, 0, 0, 255])).unwrap();
            fs::write(dir.path().join(format!("{n}.txt")), "x".repeat(usize::from(n) + 1)).unwrap();
        }
        let (images, captions) = (MeanRed(Cell::new(0)), Length(Cell::new(0)));
        Self { dir, images, captions, warnings: RefCell::default(), on_bad_file: OnBadFile::Fail }
    }

    pub(crate) fn prepare(&self) -> Result<Prepared> {
        self.prepare_until(usize::MAX)
    }

    fn prepare_until(&self, images: usize) -> Result<Prepared> {
        let cache = Cache::open(&self.dir.path().join("cache"))?;
        let options = DatasetOptions { on_bad_file: self.on_bad_file, ..DatasetOptions::default() };
        let dataset = Dataset::open(&[self.dir.path().to_path_buf()], &options)?;
        let on_notice = |notice| {
            match notice {
                Notice::Progress { stage: "encoding images", done, .. } if done >= images => {
                    return Err(Error::Cancelled);
                }
                Notice::Progress { .. } => {}
                Notice::Warning { code, message } => self.warnings.borrow_mut().push((code, message)),
            }
            Ok(())
        };
        prepare(&dataset, TargetSize::Square(16), &self.images, &self.captions, &cache, &on_notice)
    }

    /// Calls of the encoders so far.
    fn calls(&self) -> (usize, usize) {
        (self.images.0.get(), self.captions.0.get())
    }
}

#[test]
fn everything_is_encoded_once() {
    let fixture = Fixture::new(3);
    // Two images share a caption; the empty prompt is encoded too.
    fs::write(fixture.dir.path().join("2.txt"), "xx").unwrap();
    let prepared = fixture.prepare().unwrap();
    assert_eq!(fixture.calls(), (3, 3));
    assert_eq!((prepared.samples.len(), prepared.captions), (3, 2));
    assert_eq!(prepared.samples[1].text, prepared.samples[2].text);
    assert_eq!(prepared.empty_prompt.to_f32_vec().unwrap(), [0.0, 0.0]);
    fixture.prepare().unwrap();
    assert_eq!(fixture.calls(), (3, 3));
    fs::write(fixture.dir.path().join("1.png"), png(20, 20, [99, 0, 0, 255])).unwrap();
    fixture.prepare().unwrap();
    assert_eq!(fixture.calls(), (4, 3));
    assert!(fixture.warnings.borrow().is_empty());
}

#[test]
fn damaged_entries_are_made_again_with_a_warning() {
    let fixture = Fixture::new(2);
    let prepared = fixture.prepare().unwrap();
    let latents = prepared.cache.latent_path(&prepared.samples[0].latents);
    let text = prepared.cache.text_path(&prepared.samples[1].text);
    for path in [&latents, &text] {
        let bytes = fs::read(path).unwrap();
        fs::write(path, &bytes[..bytes.len() - 3]).unwrap();
    }
    let again = fixture.prepare().unwrap();
    assert_eq!(fixture.calls(), (3, 4));
    let warnings = fixture.warnings.borrow();
    assert_eq!(warnings.iter().map(|w| w.0).collect::<Vec<_>>(), ["CACHE_STALE", "CACHE_STALE"]);
    assert!(warnings.iter().any(|w| w.1.contains(latents.to_str().unwrap())), "{warnings:?}");
    assert!(again.cache.latents(&again.samples[0].latents).unwrap().is_some());
}

#[test]
fn cancelling_keeps_what_is_done() {
    let fixture = Fixture::new(3);
    assert_eq!(fixture.prepare_until(2).unwrap_err().code(), "CANCELLED");
    assert_eq!(fixture.calls(), (2, 4));
    fixture.prepare().unwrap();
    assert_eq!(fixture.calls(), (3, 4));
}

#[test]
fn an_image_damaged_behind_its_header_fails_or_is_skipped() {
    let mut fixture = Fixture::new(3);
    let path = fixture.dir.path().join("1.png");
    let bytes = fs::read(&path).unwrap();
    fs::write(&path, &bytes[..bytes.len() - 24]).unwrap();
    let error = fixture.prepare().unwrap_err();
    assert_eq!(error.code(), "DATA_UNREADABLE");
    assert!(error.to_string().contains("1.png"), "{error}");
    fixture.on_bad_file = OnBadFile::Skip;
    let prepared = fixture.prepare().unwrap();
    assert_eq!((prepared.samples.len(), prepared.skipped.len()), (2, 1));
    assert!(prepared.skipped[0].path.ends_with("1.png"));
    assert_eq!(fixture.warnings.borrow().len(), 1);
}
