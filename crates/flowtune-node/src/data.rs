//! Safetensors files, images, and loaders of training batches.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use flowtune_data::{Loader as DataLoader, Size, decode_image, save_png as write_png};
use flowtune_models::{read_metadata, read_safetensors, save_safetensors as write_safetensors};
use flowtune_train::{Session, resolve_recipe};
use napi::Env;
use napi::bindgen_prelude::{Object, Uint8Array};
use napi_derive::napi;

use crate::error::{Failure, Result};
use crate::executor::promise;
use crate::optimizer::{NamedTensor, by_name};
use crate::progress::{CancelToken, EventCallback, control};
use crate::tensor::Tensor;

/// A safetensors file.
#[napi(object, object_from_js = false)]
pub struct TensorFile {
    /// Its tensors, by name.
    pub tensors: Vec<NamedTensor>,
    /// Its `__metadata__`.
    pub metadata: HashMap<String, String>,
}

/// A promise of the tensors of a safetensors file.
#[napi(ts_return_type = "Promise<TensorFile>")]
pub fn load_safetensors<'env>(env: &'env Env, path: String) -> napi::Result<Object<'env>> {
    promise(env, move || {
        let named = read_safetensors(&path)?.into_iter();
        let mut tensors: Vec<_> = named.map(|(name, tensor)| NamedTensor { name, tensor: tensor.into() }).collect();
        tensors.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(TensorFile { tensors, metadata: read_metadata(&path)? })
    })
}

/// Writes a safetensors file, whole or not at all.
#[napi(ts_return_type = "Promise<void>")]
pub fn save_safetensors<'env>(
    env: &'env Env,
    path: String,
    names: Vec<String>,
    tensors: Vec<&Tensor>,
    metadata: HashMap<String, String>,
) -> napi::Result<Object<'env>> {
    let tensors = by_name(names, &tensors);
    promise(env, move || {
        let tensors: Vec<_> = tensors?.into_iter().collect();
        Ok(write_safetensors(&path, &tensors, Some(metadata))?)
    })
}

/// A promise of an image file's pixels, `[3, height, width]` in −1..1, scaled and cut to size. `name` is for messages.
#[napi(ts_return_type = "Promise<Tensor>")]
pub fn load_image<'env>(
    env: &'env Env,
    bytes: Uint8Array,
    name: String,
    width: u32,
    height: u32,
) -> napi::Result<Object<'env>> {
    let bytes = bytes.to_vec();
    promise(env, move || {
        let size = Size { width: width as usize, height: height as usize };
        Ok(Tensor::from(decode_image(&bytes, Path::new(&name), size)?))
    })
}

/// Writes an image `[3, H, W]` in 0..1 as a PNG.
#[napi(ts_return_type = "Promise<void>")]
pub fn save_png<'env>(env: &'env Env, image: &Tensor, path: String) -> napi::Result<Object<'env>> {
    let image = image.get();
    promise(env, move || Ok(write_png(&image?, &PathBuf::from(path))?))
}

/// Batches of cached latents and embeddings.
#[napi]
pub struct Loader {
    inner: Arc<DataLoader>,
}

/// The loaders of a recipe's data.
#[napi(object, object_from_js = false)]
pub struct Loaders {
    /// Training data.
    pub train: Loader,
    /// Held-out data.
    pub held_out: Option<Loader>,
}

/// One batch.
#[napi(object, object_from_js = false)]
pub struct LoadedBatch {
    /// `[batch, 128, h, w]`.
    pub image_latents: Tensor,
    /// `[batch, tokens, dim]`.
    pub text_embeddings: Tensor,
    /// `[batch, 1, h, w]`, 0..1, when a sample has a mask.
    pub loss_mask: Option<Tensor>,
    /// Latents of each sample's reference images, `[1, 128, h, w]`; empty when none has any.
    pub references: Vec<Vec<Tensor>>,
    /// Captions of the samples.
    pub captions: Vec<String>,
    /// Files of the samples.
    pub paths: Vec<String>,
}

/// Opens the data of a recipe (JSON), encoding what the cache lacks.
#[napi(ts_return_type = "Promise<Loaders>")]
pub fn open_loaders<'env>(
    env: &'env Env,
    recipe_json: String,
    base_dir: String,
    cancel: &CancelToken,
    on_event: EventCallback,
) -> napi::Result<Object<'env>> {
    let control = control(cancel, on_event);
    promise(env, move || {
        let recipe = resolve_recipe(&recipe_json, Path::new(&base_dir))?;
        let emit = |event: &flowtune_train::Event| {
            control.emit(event);
            Ok(())
        };
        let session = Session::open(&recipe, &emit, &control)?;
        let loader = |inner| Loader { inner: Arc::new(inner) };
        Ok(Loaders { train: loader(session.train), held_out: session.held_out.map(loader) })
    })
}

#[napi]
impl Loader {
    /// Samples.
    #[napi(getter)]
    pub fn samples(&self) -> u32 {
        self.inner.prepared().samples.len() as u32
    }

    /// The embedding of the empty prompt, `[tokens, dim]`.
    #[napi(getter)]
    pub fn empty_prompt(&self) -> Tensor {
        self.inner.prepared().empty_prompt.clone().into()
    }

    /// A promise of batch number `step`, a function of the seed and `step` alone.
    #[napi(ts_return_type = "Promise<LoadedBatch>")]
    pub fn batch<'env>(&self, env: &'env Env, step: f64) -> napi::Result<Object<'env>> {
        let loader = Arc::clone(&self.inner);
        promise(env, move || loaded(&loader, loader.batch(step as u64)?))
    }

    /// A promise of the batch of the samples with these indices.
    #[napi(ts_return_type = "Promise<LoadedBatch>")]
    pub fn gather<'env>(&self, env: &'env Env, indices: Vec<u32>) -> napi::Result<Object<'env>> {
        let loader = Arc::clone(&self.inner);
        promise(env, move || {
            let indices: Vec<usize> = indices.iter().map(|&index| index as usize).collect();
            loaded(&loader, loader.gather(&indices)?)
        })
    }
}

fn loaded(loader: &DataLoader, batch: flowtune_data::Batch) -> Result<LoadedBatch, Failure> {
    let path = |id: &u64| loader.prepared().samples.get(*id as usize).map(|s| s.path.to_string_lossy().into_owned());
    Ok(LoadedBatch {
        paths: batch.sample_ids.iter().filter_map(path).collect(),
        captions: batch.captions,
        loss_mask: batch.loss_mask.map(Tensor::from),
        references: batch.references.into_iter().map(|list| list.into_iter().map(Tensor::from).collect()).collect(),
        image_latents: batch.image_latents.into(),
        text_embeddings: batch.text_embeddings.into(),
    })
}
