//! `Flux2Transformer`.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use flowtune_engine::{Device, Keep, Tape, Value};
use flowtune_flow::sampling::SampleInputs;
use flowtune_models::Weights;
use flowtune_models::lora::{adapters, add_lora, load_lora, lora_params, remove_lora, save_lora};
use flowtune_models::transformer::{Flux2Inputs, Flux2Transformer as Transformer, ReferenceTokens};
use flowtune_train::{Part, load_options, local_path, lora_options, transformer_config};
use napi::Env;
use napi::bindgen_prelude::Object;
use napi_derive::napi;

use crate::error::{Failure, Result, guarded, to_json};
use crate::executor::promise;
use crate::optimizer::by_name;
use crate::parameter::Parameter;
use crate::progress::{CancelToken, EventCallback, control};
use crate::tensor::{Tensor, TensorField, dtype_named, nested_fields, optional_field};

/// The transformer with its weights and, if it has some, its adapters.
#[napi]
pub struct Flux2Transformer {
    inner: Arc<Transformer>,
}

/// What the transformer takes; see [`Flux2Inputs`].
#[napi(object, object_to_js = false)]
pub struct InputTensors {
    /// `[batch, tokens, 128]`.
    pub hidden_states: TensorField,
    /// `[batch, text tokens, dim]`.
    pub encoder_hidden_states: TensorField,
    /// `[batch]`.
    pub timestep: TensorField,
    /// `[batch, tokens, 4]`.
    pub img_ids: TensorField,
    /// `[batch, text tokens, 4]`.
    pub txt_ids: TensorField,
    /// `[batch]`.
    pub guidance: Option<TensorField>,
    /// Per sample, the images that it is edited from.
    pub references: Option<Vec<Option<ReferenceFields>>>,
}

/// See [`ReferenceTokens`].
#[napi(object, object_to_js = false)]
pub struct ReferenceFields {
    /// `[tokens, 128]`.
    pub hidden_states: TensorField,
    /// `[tokens, 4]`.
    pub ids: TensorField,
}

impl ReferenceFields {
    fn get(self) -> Result<ReferenceTokens, Failure> {
        Ok(ReferenceTokens { hidden_states: self.hidden_states.get()?, ids: self.ids.get()? })
    }
}

#[napi]
impl Flux2Transformer {
    /// A promise of the transformer of a model folder, or of a transformer's own folder or file; of a hub's after its
    /// download.
    #[napi(ts_return_type = "Promise<Flux2Transformer>")]
    pub fn load<'env>(
        env: &'env Env,
        path: String,
        options_json: String,
        cancel: &CancelToken,
        on_event: EventCallback,
    ) -> napi::Result<Object<'env>> {
        let control = control(cancel, on_event);
        promise(env, move || {
            let options = load_options(&options_json)?;
            let path = local_path(Path::new(&path), &[Part::Transformer], &control)?;
            Ok(Self { inner: Arc::new(Transformer::open(&path, options)?) })
        })
    }

    /// A promise of a transformer of this geometry (JSON), with the given weights or random ones.
    #[napi(ts_return_type = "Promise<Flux2Transformer>")]
    pub fn from_config<'env>(
        env: &'env Env,
        config_json: String,
        names: Vec<String>,
        tensors: Vec<&Tensor>,
        seed: Option<f64>,
        options_json: String,
    ) -> napi::Result<Object<'env>> {
        let weights = by_name(names, &tensors);
        promise(env, move || {
            let (config, precision) = (transformer_config(&config_json)?, load_options(&options_json)?);
            let device = Device::preferred()?;
            let model = match seed {
                Some(seed) => Transformer::random(config, seed as u64, precision)?,
                None => Transformer::load(config, &Weights::from_tensors(weights?).on(&device), precision)?,
            };
            model.to_device(&device)?;
            Ok(Self { inner: Arc::new(model) })
        })
    }

    /// Geometry as JSON, with the keys of diffusers' `config.json`.
    #[napi]
    pub fn config(&self) -> Result<String> {
        guarded(|| to_json(self.inner.config()))
    }

    /// The base model's weights, then those of the adapters.
    #[napi]
    pub fn parameters(&self) -> Vec<Parameter> {
        let adapters = lora_params(&self.inner);
        self.inner.params().iter().chain(&adapters).map(Parameter::from).collect()
    }

    /// A promise of the prediction, `[batch, tokens, 128]`.
    #[napi(ts_return_type = "Promise<Tensor>")]
    pub fn forward<'env>(
        &self,
        env: &'env Env,
        inputs: InputTensors,
        grad: bool,
        activation_checkpointing: bool,
        memory_budget: Option<f64>,
    ) -> napi::Result<Object<'env>> {
        let tracked = (inputs.hidden_states.value(), inputs.encoder_hidden_states.value());
        let ids = (inputs.img_ids.get(), inputs.txt_ids.get());
        let scalars = (inputs.timestep.get(), optional_field(inputs.guidance));
        let references = inputs.references.unwrap_or_default().into_iter();
        let references: Result<Vec<_>, Failure> = references.map(|r| r.map(ReferenceFields::get).transpose()).collect();
        let model = Arc::clone(&self.inner);
        promise(env, move || {
            let (hidden_states, encoder_hidden_states, references) = (tracked.0?, tracked.1?, references?);
            let (img_ids, txt_ids, timestep, guidance) = (ids.0?, ids.1?, scalars.0?, scalars.1?);
            let tape = match (grad, memory_budget, activation_checkpointing) {
                (false, ..) => Tape::inference(),
                (true, Some(gigabytes), _) => Tape::keeping(Keep::Within((gigabytes * 1e9) as usize)),
                (true, None, true) => Tape::new(),
                (true, None, false) => Tape::without_checkpointing(),
            };
            let outputs = Value::apply(tape, &[&hidden_states, &encoder_hidden_states], |tape, vars| {
                let (hidden_states, encoder_hidden_states) = (vars[0].clone(), vars[1].clone());
                let inputs = Flux2Inputs {
                    hidden_states,
                    encoder_hidden_states,
                    timestep,
                    img_ids,
                    txt_ids,
                    guidance,
                    references,
                };
                Ok::<_, flowtune_models::Error>(vec![model.forward(tape, &inputs)?])
            })?;
            let prediction = outputs.into_iter().next().map(Tensor::from);
            prediction.ok_or_else(|| Failure::new("INTERNAL", "the transformer gave no prediction"))
        })
    }

    /// A promise of fresh adapters on the layers that the options (JSON of a recipe's `lora`) select; the base is frozen.
    #[napi(ts_return_type = "Promise<Parameter[]>")]
    pub fn add_lora<'env>(&self, env: &'env Env, options_json: String, seed: f64) -> napi::Result<Object<'env>> {
        let model = Arc::clone(&self.inner);
        promise(env, move || {
            let params = add_lora(&model, &lora_options(&options_json)?, seed as u64)?;
            Ok(params.iter().map(Parameter::from).collect::<Vec<_>>())
        })
    }

    /// A promise of the adapters of a LoRA file, trainable.
    #[napi(ts_return_type = "Promise<Parameter[]>")]
    pub fn load_lora<'env>(&self, env: &'env Env, path: String) -> napi::Result<Object<'env>> {
        let model = Arc::clone(&self.inner);
        promise(env, move || {
            let params = load_lora(&model, Path::new(&path))?;
            Ok(params.iter().map(Parameter::from).collect::<Vec<_>>())
        })
    }

    /// A promise of the file that the adapters were written to.
    #[napi(ts_return_type = "Promise<string>")]
    pub fn save_lora<'env>(&self, env: &'env Env, folder: String) -> napi::Result<Object<'env>> {
        let model = Arc::clone(&self.inner);
        promise(env, move || {
            let message = "the model has no adapters to save; call addLora or loadLora first";
            if adapters(&model).is_empty() {
                return Err(Failure::new("INVALID_ARGUMENT", message));
            }
            Ok(text(save_lora(&model, Path::new(&folder), &HashMap::new())?))
        })
    }

    /// A promise of the folder that the whole transformer was written to, in diffusers' layout.
    #[napi(ts_return_type = "Promise<string>")]
    pub fn save<'env>(&self, env: &'env Env, folder: String, dtype: String) -> napi::Result<Object<'env>> {
        let model = Arc::clone(&self.inner);
        promise(env, move || Ok(text(model.save(Path::new(&folder), dtype_named(&dtype)?)?)))
    }

    /// Takes all adapters off.
    #[napi]
    pub fn remove_lora(&self) {
        remove_lora(&self.inner);
    }

    /// A promise of sampled latents, `[batch, 128, h, w]`.
    #[napi(ts_return_type = "Promise<Tensor>")]
    pub fn sample<'env>(
        &self,
        env: &'env Env,
        inputs: SampleTensors,
        cancel: &CancelToken,
        on_event: EventCallback,
    ) -> napi::Result<Object<'env>> {
        let (model, inputs, control) = (Arc::clone(&self.inner), inputs.get(), control(cancel, on_event));
        promise(env, move || {
            let inputs = inputs?;
            Ok(Tensor::from(flowtune_train::sample_latents(&model, &inputs, "sampling", &control)?))
        })
    }
}

/// What to sample; see [`SampleInputs`].
#[napi(object, object_to_js = false)]
pub struct SampleTensors {
    /// `[batch, tokens, dim]`.
    pub text_embeddings: TensorField,
    /// `[batch, tokens, dim]`.
    pub negative_text_embeddings: Option<TensorField>,
    /// `[batch, 128, h, w]`.
    pub initial_latents: TensorField,
    /// Euler steps.
    pub steps: u32,
    /// Scale of the guidance.
    pub guidance_scale: f64,
    /// Per sample, `[128, h, w]` or `[1, 128, h, w]` each.
    pub references: Option<Vec<Vec<TensorField>>>,
}

impl SampleTensors {
    fn get(self) -> Result<SampleInputs, Failure> {
        Ok(SampleInputs {
            text_embeddings: self.text_embeddings.get()?,
            negative_text_embeddings: optional_field(self.negative_text_embeddings)?,
            initial_latents: self.initial_latents.get()?,
            steps: self.steps as usize,
            guidance_scale: self.guidance_scale,
            references: nested_fields(self.references)?,
        })
    }
}

fn text(path: PathBuf) -> String {
    path.to_string_lossy().into_owned()
}
