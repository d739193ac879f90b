use std::cell::{Cell, RefCell};
use std::fs;

use flowtune_engine::DType;

use super::*;
use crate::image::tests::png;
use crate::{CaptionEncoder, Dataset, DatasetOptions, Error, ImageEncoder, OnBadFile, Sizing};

/// Latents: two channels with the mean of red, and its negative. Counts its calls.
struct MeanRed(Cell<usize>);

impl ImageEncoder for MeanRed {
    fn encode(&self, images: &Tensor) -> Result<Tensor> {
        self.0.set(self.0.get() + 1);
        let plane = images.dim(2) * images.dim(3);
        let mean = images.to_f32_vec()?[..plane].iter().sum::<f32>() / plane as f32;
        let (h, w) = (images.dim(2) / 16, images.dim(3) / 16);
        let values = [vec![mean; h * w], vec![-mean; h * w]].concat();
        Ok(Tensor::from_vec(values, &[1, 2, h, w])?)
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
    sizing: Sizing,
    dtype: DType,
}

impl Fixture {
    pub(crate) fn new(count: u8) -> Self {
        let dir = tempfile::tempdir().unwrap();
        for n in 0..count {
            fs::write(dir.path().join(format!("{n}.png")), png(20, 20, [10 * n, 0, 0, 255])).unwrap();
            fs::write(dir.path().join(format!("{n}.txt")), "x".repeat(usize::from(n) + 1)).unwrap();
        }
        let (images, captions) = (MeanRed(Cell::new(0)), Length(Cell::new(0)));
        let sizing = Sizing { resolutions: vec![16], buckets: true };
        let on_bad_file = OnBadFile::Fail;
        Self { dir, images, captions, warnings: RefCell::default(), on_bad_file, sizing, dtype: DType::F32 }
    }

    pub(crate) fn prepare(&self) -> Result<Prepared> {
        self.prepare_until(usize::MAX)
    }

    fn prepare_until(&self, images: usize) -> Result<Prepared> {
        let cache = Cache::open(&self.dir.path().join("cache"))?;
        let options =
            DatasetOptions { on_bad_file: self.on_bad_file, caption_per_line: true, ..DatasetOptions::default() };
        let folder = |name: &str| Some(self.dir.path().join(name)).filter(|folder| folder.exists());
        let references = folder("references").into_iter().collect();
        let source = Source { masks: folder("masks"), references, ..Source::new(self.dir.path()) };
        let dataset = Dataset::open(&[source], &options)?;
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
        let texts = encode_captions(dataset.captions(), &self.captions, self.dtype, &cache, &on_notice)?;
        encode_images(&dataset, &texts, &self.sizing, &self.images, &cache, &on_notice)
    }

    /// Writes a file of one colour into `masks`.
    pub(crate) fn mask(&self, name: &str, side: u32, colour: [u8; 4]) {
        self.companion("masks", name, side, side, colour);
    }

    fn companion(&self, folder: &str, name: &str, width: u32, height: u32, colour: [u8; 4]) {
        let folder = self.dir.path().join(folder);
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join(name), png(width, height, colour)).unwrap();
    }

    /// Writes another caption, or several, one a line.
    pub(crate) fn caption(&self, name: &str, text: &str) {
        fs::write(self.dir.path().join(name), text).unwrap();
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
    assert_eq!(prepared.samples.len(), 3);
    assert_eq!(prepared.samples[1].texts, prepared.samples[2].texts);
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
    let latents = prepared.cache.latent_path(&prepared.samples[0].latents.key);
    let text = prepared.cache.text_path(&prepared.samples[1].texts[0]);
    for path in [&latents, &text] {
        let bytes = fs::read(path).unwrap();
        fs::write(path, &bytes[..bytes.len() - 3]).unwrap();
    }
    let again = fixture.prepare().unwrap();
    assert_eq!(fixture.calls(), (3, 4));
    let warnings = fixture.warnings.borrow();
    assert_eq!(warnings.iter().map(|w| w.0).collect::<Vec<_>>(), ["CACHE_STALE", "CACHE_STALE"]);
    assert!(warnings.iter().any(|w| w.1.contains(latents.to_str().unwrap())), "{warnings:?}");
    assert!(again.cache.latents(&again.samples[0].latents.key).unwrap().is_some());
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

#[test]
fn sizes_masks_and_references_are_cached_with_the_image() {
    let mut fixture = Fixture::new(2);
    fixture.sizing = Sizing { resolutions: vec![32, 16], buckets: true };
    // 0.png has 20×20 pixels, enough for 16² alone; 1.png 80×40, for both sizes.
    fs::write(fixture.dir.path().join("1.png"), png(80, 40, [10, 0, 0, 255])).unwrap();
    fixture.mask("0.png", 16, [128, 128, 128, 255]);
    fixture.companion("references", "0.png", 40, 20, [200, 0, 0, 255]);
    fixture.companion("references", "1.png", 40, 40, [200, 0, 0, 255]);
    let prepared = fixture.prepare().unwrap();
    let shapes: Vec<_> = prepared.samples.iter().map(|sample| sample.latents.shape.clone()).collect();
    assert_eq!(shapes, [vec![2, 1, 1], vec![2, 1, 1], vec![2, 1, 3]]);
    let references: Vec<_> = prepared.samples.iter().map(|sample| sample.references[0].shape.clone()).collect();
    assert_eq!(references, [vec![2, 1, 1], vec![2, 1, 1], vec![2, 2, 2]]);
    let mask = prepared.cache.mask(prepared.samples[0].mask.as_ref().unwrap()).unwrap().unwrap();
    assert_eq!(mask.to_f32_vec().unwrap(), [128.0 / 255.0]);
    assert!(prepared.samples[1].mask.is_none());
    // Three images, and three references, of which one at two sizes.
    let calls = fixture.calls();
    fixture.prepare().unwrap();
    assert_eq!(fixture.calls(), calls);
    fixture.companion("references", "1.png", 40, 40, [100, 0, 0, 255]);
    fixture.prepare().unwrap();
    assert_eq!(fixture.calls().0, calls.0 + 2);
    fixture.mask("0.png", 16, [0, 0, 0, 255]);
    let error = fixture.prepare().unwrap_err();
    assert!(error.to_string().contains("masks/0.png") && error.code() == "DATA_UNREADABLE", "{error}");
}

#[test]
fn embeddings_are_kept_in_the_type_that_is_asked_for() {
    let mut fixture = Fixture::new(1);
    for (dtype, calls) in [(DType::F32, 2), (DType::BF16, 4), (DType::F32, 4)] {
        fixture.dtype = dtype;
        let prepared = fixture.prepare().unwrap();
        assert_eq!(prepared.cache.text(&prepared.samples[0].texts[0]).unwrap().unwrap().dtype(), dtype);
        assert_eq!((prepared.empty_prompt.dtype(), fixture.calls().1), (DType::F32, calls));
    }
}
