//! What a plan is made from: the headers of a model's files, and the data as far as it can be listed.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use flowtune_data::Dataset;
use flowtune_engine::{DType, num_threads};
use flowtune_models::ModelFolder;
use flowtune_models::text::{PromptTokenizer, TextConfig};
use flowtune_models::transformer::{Flux2Config, Flux2Transformer, WeightShape};
use flowtune_models::vae::VaeConfig;

use super::rehearsal::Denoising;
use crate::error::Result;
use crate::explain::ranks;
use crate::recipe::{Mode, Recipe};

/// The model of a recipe without its weights.
pub(super) struct Model {
    pub(super) config: Flux2Config,
    pub(super) weights: Vec<WeightShape>,
    /// For the names of its layers.
    outline: Flux2Transformer,
    /// Types in which the file has the weights; as many.
    pub(super) stored: Vec<Option<DType>>,
    pub(super) text: TextConfig,
    /// Bytes of a number in the text encoder's file.
    pub(super) text_stored: usize,
    pub(super) text_tokens: usize,
    pub(super) vae: VaeConfig,
    pub(super) vae_parameters: usize,
}

impl Model {
    /// Reads configurations and headers.
    pub(super) fn open(recipe: &Recipe) -> Result<Self> {
        let described = recipe.model.describe()?;
        let folder = &described.folder;
        let config = folder.transformer_config()?;
        let (outline, weights) = Flux2Transformer::outline(config.clone())?;
        let file = folder.transformer_weights()?;
        let text_weights = folder.weights("text_encoder")?;
        let widest = text_weights.names().iter().map(|name| text_weights.stored_dtype(name).size()).max();
        let vae_weights = folder.weights("vae")?;
        let of_vae = |name: &String| vae_weights.shape(name).map(|shape| shape.iter().product::<usize>());
        let vae_parameters = vae_weights.names().iter().filter_map(of_vae).sum();
        Ok(Self {
            stored: weights.iter().map(|w| file.float_type(&w.name)).collect(),
            config,
            weights,
            outline,
            text: folder.text_config()?,
            text_stored: widest.unwrap_or(4),
            text_tokens: text_tokens(recipe, folder)?,
            vae: folder.config("vae")?,
            vae_parameters,
        })
    }

    /// The model as `recipe` loads it; `ranks` are those of [`Model::ranks`].
    pub(super) fn denoising<'a>(&'a self, recipe: &Recipe, ranks: &'a HashMap<String, usize>) -> Denoising<'a> {
        Denoising {
            config: &self.config,
            weights: &self.weights,
            stored: &self.stored,
            precision: recipe.precision(),
            ranks,
            threads: num_threads(),
        }
    }

    /// Rank of the adapter of each layer that `recipe` puts one on.
    pub(super) fn ranks(&self, recipe: &Recipe) -> Result<HashMap<String, usize>> {
        match recipe.mode {
            Mode::Full => Ok(HashMap::new()),
            Mode::Lora => ranks(recipe, &self.outline),
        }
    }
}

fn text_tokens(recipe: &Recipe, folder: &ModelFolder) -> Result<usize> {
    match recipe.data.text_tokens {
        Some(tokens) => Ok(tokens),
        None => Ok(PromptTokenizer::max_tokens_in(folder.component("tokenizer")?)?),
    }
}

/// How much there is to encode and to keep.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct DataSize {
    /// Images to train on, without those held out.
    pub(super) images: usize,
    /// Images held out.
    pub(super) held_out: usize,
    /// Distinct captions and prompts, the empty one too.
    pub(super) captions: usize,
    /// The most reference images that an image has.
    pub(super) references: usize,
}

impl DataSize {
    /// Lists the images; none when they cannot be read, which training will say better.
    pub(super) fn of(recipe: &Recipe) -> Option<Self> {
        let options = recipe.data.options();
        let train = Dataset::open(&recipe.data.train_sources(), &options).ok()?;
        let apart = match recipe.data.held_out.is_empty() {
            true => Dataset::default(),
            false => Dataset::open(&recipe.data.held_out_sources(), &options).ok()?,
        };
        let items = || train.items.iter().chain(&apart.items);
        let mut captions: HashSet<String> = items().flat_map(|item| item.captions.clone()).collect();
        captions.extend(recipe.validation.prompts.iter().map(|prompt| options.expanded(&prompt.prompt)));
        captions.insert(String::new());
        let split = recipe.data.held_out_count.unwrap_or(0).min(train.items.len());
        Some(Self {
            images: train.items.len() - split,
            held_out: apart.items.len() + split,
            captions: captions.len(),
            references: items().map(|item| item.references.len()).max().unwrap_or(0),
        })
    }
}

/// Whether a cache lacks so many entries that the encoders have to be loaded: for certain, that is. Entries of another
/// model or of other images count too.
pub(super) fn must_encode(cache: &Path, data: DataSize) -> bool {
    let entries = |kind: &str| std::fs::read_dir(cache.join(kind)).map_or(0, Iterator::count);
    entries("text_embeddings") < data.captions.max(1) || entries("image_latents") < (data.images + data.held_out).max(1)
}
