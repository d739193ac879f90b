//! Refusing what a step cannot be made of, before anything is computed.

use flowtune_engine::ops::layout::expand;
use flowtune_engine::{DType, Error as EngineError, Tensor};

use crate::context::Batch;
use crate::error::{Error, Result};
use crate::flow_matching::Given;
use crate::references;

/// Checks a batch and what is given with it. Returns the mask, expanded to the latents' shape.
pub(crate) fn check(batch: &Batch, given: &Given) -> Result<Option<Tensor>> {
    let latents = &batch.image_latents;
    let samples = rank(latents, "batch.image_latents", "[batch, 128, h, w]", 4)?[0];
    if samples == 0 {
        return Err(wrong("batch.image_latents", "[batch, 128, h, w] with at least one sample".to_owned(), latents));
    }
    rank(&batch.text_embeddings, "batch.text_embeddings", &format!("[{samples}, tokens, dim]"), 3)?;
    if batch.text_embeddings.dim(0) != samples {
        return Err(wrong("batch.text_embeddings", format!("[{samples}, tokens, dim]"), &batch.text_embeddings));
    }
    let per_sample = [("batch.guidance", &batch.guidance), ("sigma", &given.sigma), ("weight", &given.weight)];
    for (argument, tensor) in per_sample {
        if let Some(tensor) = tensor {
            shaped(tensor, argument, &[samples])?;
        }
    }
    references::check(&batch.references, samples, latents.dim(1))?;
    if let Some(noise) = &given.noise {
        shaped(noise, "noise", latents.shape())?;
    }
    if let Some(sigma) = &given.sigma {
        in_unit_interval(sigma)?;
    }
    if let Some(drop_caption) = given.drop_caption.as_ref().filter(|drop| drop.len() != samples) {
        return Err(Error::Invalid(format!("dropCaption must have {samples} entries, got {}", drop_caption.len())));
    }
    batch.loss_mask.as_ref().map(|mask| expanded(mask, latents.shape())).transpose()
}

fn rank<'a>(tensor: &'a Tensor, argument: &'static str, expected: &str, rank: usize) -> Result<&'a [usize]> {
    if tensor.shape().len() != rank {
        let expected = format!("{expected} (rank {rank}, not {})", tensor.shape().len());
        return Err(wrong(argument, expected, tensor));
    }
    float32(tensor, argument)?;
    Ok(tensor.shape())
}

fn shaped(tensor: &Tensor, argument: &'static str, shape: &[usize]) -> Result<()> {
    float32(tensor, argument)?;
    match tensor.shape() == shape {
        true => Ok(()),
        false => Err(wrong(argument, format!("{shape:?}"), tensor)),
    }
}

fn float32(tensor: &Tensor, argument: &'static str) -> Result<()> {
    match tensor.dtype() {
        DType::F32 => Ok(()),
        other => Err(EngineError::DType { op: argument, expected: "float32", got: other.name() }.into()),
    }
}

fn in_unit_interval(sigma: &Tensor) -> Result<()> {
    match sigma.as_slice::<f32>()?.iter().find(|sigma| !(0.0..=1.0).contains(*sigma)) {
        None => Ok(()),
        Some(sigma) => Err(Error::Invalid(format!("sigma must be in 0..1, got {sigma}"))),
    }
}

fn expanded(mask: &Tensor, shape: &[usize]) -> Result<Tensor> {
    let argument = "batch.loss_mask";
    float32(mask, argument)?;
    let &[samples, channels, h, w] = shape else { return Err(wrong(argument, format!("{shape:?}"), mask)) };
    let expected = format!("[{samples} or 1, {channels} or 1, {h}, {w}]");
    let fits = mask.shape().len() == shape.len()
        && mask.shape().iter().zip(shape).enumerate().all(|(i, (m, s))| m == s || (i < 2 && *m == 1));
    if !fits {
        return Err(wrong(argument, expected, mask));
    }
    if mask.as_slice::<f32>()?.iter().all(|&m| m == 0.0) {
        return Err(wrong(argument, format!("{expected} with at least one element that is not 0"), mask));
    }
    Ok(expand(mask, shape)?)
}

fn wrong(argument: &'static str, expected: String, got: &Tensor) -> Error {
    EngineError::Shape { op: "step", argument, expected, got: got.shape().to_vec() }.into()
}
