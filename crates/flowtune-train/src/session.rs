//! What train, prepare and evaluate share: a recipe turned into data, prompts and a flow-matching pipeline.

use flowtune_data::{
    Cache, Dataset, Error as DataError, Loader, Notice, TextCaptionEncoder, VaeEncoder, encode_captions, encode_images,
};
use flowtune_engine::Tensor;
use flowtune_flow::{FlowMatchingPipeline, Flux2Adapter};
use flowtune_hub::Part;
use flowtune_models::ModelFolder;

use crate::control::Control;
use crate::error::Result;
use crate::event::Event;
use crate::recipe::{CaptionDropoutMode, Recipe};

/// Cached tensors that stay in memory, in bytes; the others are read when needed.
pub(crate) const LOADER_MEMORY: usize = 2 << 30;

/// Data and prompts of a recipe, encoded. The encoders are gone when it is open.
pub struct Session {
    /// The model's folder.
    pub folder: ModelFolder,
    /// Training data.
    pub train: Loader,
    /// Held-out data, if the recipe names some.
    pub held_out: Option<Loader>,
    /// Distinct captions and prompts, the empty one included.
    pub captions: usize,
    /// Embeddings of the validation prompts, `[tokens, dim]`.
    pub prompts: Vec<Tensor>,
}

impl Session {
    /// Opens the model's folder, brings its encoders here, reads the data and encodes what the cache lacks. `emit` hears of progress and warnings.
    ///
    /// # Errors
    /// `RECIPE_INVALID` for a distilled model that the recipe does not allow; those of reading model and data;
    /// `CANCELLED`.
    pub fn open(recipe: &Recipe, emit: &dyn Fn(&Event) -> Result<()>, control: &Control) -> Result<Self> {
        recipe.model.check_distilled(&recipe.model.open()?)?;
        let folder = recipe.model.open_with(&Part::ENCODERS, control)?;
        let notice = |notice: Notice| -> flowtune_data::Result<()> {
            let told = emit(&event_of(notice));
            match control.is_cancelled() || told.is_err() {
                true => Err(DataError::Cancelled),
                false => Ok(()),
            }
        };
        let options = recipe.data.options();
        let mut train = Dataset::open(&recipe.data.train_sources(), &options)?;
        let held_out = match (recipe.data.held_out.is_empty(), recipe.data.held_out_count) {
            (false, _) => Some(Dataset::open(&recipe.data.held_out_sources(), &options)?),
            (true, Some(count)) => Some(train.split_off(count)?),
            (true, None) => None,
        };
        let prompts: Vec<String> = recipe.validation.prompts.iter().map(|p| options.expanded(&p.prompt)).collect();
        let cache = Cache::open(&recipe.data.cache_dir)?;
        // One encoder after the other: the text encoder is gone when the VAE is loaded.
        let captions = train.captions().chain(held_out.iter().flat_map(Dataset::captions));
        let captions = captions.chain(prompts.iter().map(String::as_str));
        let texts = {
            let encoder = TextCaptionEncoder::new(&folder, recipe.data.text_tokens)?;
            encode_captions(captions, &encoder, recipe.precision().compute(), &cache, &notice)?
        };
        let (encoder, sizing) = (VaeEncoder::new(&folder), recipe.data.sizing());
        let loader = |data: &Dataset| {
            let prepared = encode_images(data, &texts, &sizing, &encoder, &cache, &notice)?;
            Loader::new(prepared, recipe.train.batch_size, recipe.train.seed, LOADER_MEMORY)
        };
        let train = loader(&train)?;
        let held_out = held_out.as_ref().map(loader).transpose()?;
        let prompts = prompts.iter().map(|prompt| texts.embeddings(prompt)).collect::<Result<_, _>>()?;
        Ok(Self { folder, train, held_out, captions: texts.len(), prompts })
    }

    /// The embedding of the empty prompt, `[tokens, dim]`.
    pub fn empty_prompt(&self) -> &Tensor {
        &self.train.prepared().empty_prompt
    }

    /// The flow-matching step that the recipe asks for.
    pub fn pipeline(&self, recipe: &Recipe, guidance_embeds: bool) -> FlowMatchingPipeline<Flux2Adapter> {
        let f = &recipe.flow_matching;
        let adapter = Flux2Adapter { guidance_scale: f.guidance_scale, use_guidance_embeds: guidance_embeds };
        let empty_prompt = match f.caption_dropout_mode {
            CaptionDropoutMode::EmptyPrompt => Some(self.empty_prompt().clone()),
            CaptionDropoutMode::Zero => None,
        };
        FlowMatchingPipeline::new(adapter, f.options(), empty_prompt)
    }
}

/// A batch of the loader as the flow-matching step takes it.
pub fn flow_batch(batch: flowtune_data::Batch) -> flowtune_flow::Batch {
    flowtune_flow::Batch {
        image_latents: batch.image_latents,
        text_embeddings: batch.text_embeddings,
        loss_mask: batch.loss_mask,
        guidance: None,
        references: batch.references,
    }
}

fn event_of(notice: Notice) -> Event {
    match notice {
        Notice::Progress { stage, done, total } => {
            Event::Progress { stage: stage.to_owned(), done: done as u64, total: total as u64, unit: None }
        }
        Notice::Warning { code, message } => Event::warning(code, message),
    }
}
