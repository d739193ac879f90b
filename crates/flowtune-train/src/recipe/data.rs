//! The images of a recipe.

use std::path::PathBuf;

use flowtune_data::{DatasetOptions, Sizing, Source};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::forms::{TextOrObject, one_or_list, one_or_many, text_or_object, yes};
use super::sections::OnBadFile;

/// Images, and what belongs to them: captions, masks, reference images.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DataRecipe {
    /// Training images.
    #[serde(deserialize_with = "one_or_many")]
    pub train: Vec<SourceRecipe>,
    /// Images that are never trained on.
    #[serde(default, deserialize_with = "one_or_many", skip_serializing_if = "Vec::is_empty")]
    pub held_out: Vec<SourceRecipe>,
    /// Instead of `heldOut`: how many images of `train` are set aside.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held_out_count: Option<usize>,
    /// Sides of squares, in pixels, multiples of 16: each image is trained at each that it has the pixels for.
    #[serde(default = "default_resolution", deserialize_with = "one_or_many", serialize_with = "one_or_list")]
    pub resolution: Vec<usize>,
    /// Whether images keep about their aspect, with the pixels of the square; they are cut to squares if not.
    #[serde(default = "yes")]
    pub buckets: bool,
    /// Where latents and text embeddings are cached; `.cache` beside the run folder unless given.
    /// Empty only before paths are made absolute.
    #[serde(default)]
    pub cache_dir: PathBuf,
    /// What to do with an image or a caption that cannot be read.
    #[serde(default)]
    pub on_bad_file: OnBadFile,
    /// The word for what is taught: takes the place of `[trigger]` in captions and prompts, precedes captions without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trigger_word: Option<String>,
    /// Caption of images that have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default_caption: Option<String>,
    /// Whether each line of a `.txt` is a caption of its own; one is drawn each time the image is seen.
    #[serde(default)]
    pub caption_per_line: bool,
    /// Text tokens per caption; what the model's pipeline uses unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text_tokens: Option<usize>,
}

impl DataRecipe {
    /// How the images and captions are read.
    pub fn options(&self) -> DatasetOptions {
        DatasetOptions {
            on_bad_file: self.on_bad_file.into(),
            trigger: self.trigger_word.clone(),
            default_caption: self.default_caption.clone(),
            caption_per_line: self.caption_per_line,
        }
    }

    /// At which sizes the images are trained.
    pub fn sizing(&self) -> Sizing {
        Sizing { resolutions: self.resolution.clone(), buckets: self.buckets }
    }

    /// The largest of the resolutions.
    pub fn largest_resolution(&self) -> usize {
        self.resolution.iter().copied().max().unwrap_or_default()
    }

    /// Where the training images are.
    pub fn train_sources(&self) -> Vec<Source> {
        self.train.iter().map(Source::from).collect()
    }

    /// Where the held-out images are.
    pub fn held_out_sources(&self) -> Vec<Source> {
        self.held_out.iter().map(Source::from).collect()
    }
}

fn default_resolution() -> Vec<usize> {
    vec![512]
}

/// A folder or a table of images. Without more to say, its path alone.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(remote = "Self", rename_all = "camelCase", deny_unknown_fields)]
pub struct SourceRecipe {
    /// The folder, or a table (`.jsonl`, `.csv`).
    pub path: PathBuf,
    /// Folder of masks: images of the same name, white where is trained, black where not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub masks: Option<PathBuf>,
    /// Folders of reference images of the same name: the first references, the second, …
    #[serde(default, deserialize_with = "one_or_many", skip_serializing_if = "Vec::is_empty")]
    pub references: Vec<PathBuf>,
    /// How often each image is seen while images of other sources are seen once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repeats: Option<f64>,
    /// Instead: share of all samples that are from here, against the weights of the other sources.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight: Option<f64>,
}

impl From<&SourceRecipe> for Source {
    fn from(recipe: &SourceRecipe) -> Self {
        let SourceRecipe { path, masks, references, repeats, weight } = recipe.clone();
        Self { path, masks, references, repeats: repeats.unwrap_or(1.0), weight }
    }
}

impl TextOrObject for SourceRecipe {
    const EXPECTING: &'static str = "a path, or an object with a path";

    fn of_text(path: String) -> Self {
        Self { path: path.into(), ..Self::default() }
    }

    fn of_object<'de, D: Deserializer<'de>>(object: D) -> Result<Self, D::Error> {
        Self::deserialize(object)
    }
}

impl<'de> Deserialize<'de> for SourceRecipe {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        text_or_object(deserializer)
    }
}

impl Serialize for SourceRecipe {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match *self == Self::of_text(self.path.to_string_lossy().into_owned()) {
            true => self.path.serialize(serializer),
            false => Self::serialize(self, serializer),
        }
    }
}
