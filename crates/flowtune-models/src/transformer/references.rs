//! Reference images of an edit: tokens without noise behind those of the image that is made. Samples may have different
//! numbers of them, and attention has no mask, so samples of one length run together and the others apart.
//! Source: diffusers `pipeline_flux2.py`, which appends them and cuts the prediction.

use std::collections::BTreeMap;

use flowtune_engine::{DType, Error as EngineError, Tape, Tensor, Var};

use super::Flux2Inputs;
use crate::error::Result;

/// Reference images of one sample, one behind the other.
#[derive(Debug, Clone)]
pub struct ReferenceTokens {
    /// Packed latents, `[tokens, 128]`.
    pub hidden_states: Tensor,
    /// Position ids, int64 `[tokens, 4]`.
    pub ids: Tensor,
}

/// The prediction for the samples' own tokens, `[batch, tokens, 128]`. `run` predicts for sequences of one length, given
/// how many of their tokens, the first ones, are the samples' own.
pub(super) fn predict(
    tape: &Tape,
    inputs: &Flux2Inputs,
    run: impl Fn(&Flux2Inputs, usize) -> Result<Var>,
) -> Result<Var> {
    let &[batch, tokens, channels] = inputs.hidden_states.tensor().shape() else {
        return Err(misfit(
            "hidden_states",
            "[batch, tokens, channels]".to_owned(),
            inputs.hidden_states.tensor().shape(),
        ));
    };
    check(&inputs.references, batch, channels)?;
    if inputs.references.iter().all(Option::is_none) {
        return run(inputs, tokens);
    }
    let mut rows = vec![None; batch];
    for samples in samples_by_length(&inputs.references).values() {
        let prediction = run(&sequences(tape, inputs, samples)?, tokens)?;
        if samples.len() == batch {
            return Ok(prediction);
        }
        for (i, &sample) in samples.iter().enumerate() {
            rows[sample] = Some(tape.narrow(&prediction, 0, i, 1)?);
        }
    }
    Ok(tape.cat(&rows.iter().flatten().collect::<Vec<_>>(), 0)?)
}

/// The samples that have so many reference tokens.
fn samples_by_length(references: &[Option<ReferenceTokens>]) -> BTreeMap<usize, Vec<usize>> {
    let mut samples: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    for (sample, references) in references.iter().enumerate() {
        samples.entry(references.as_ref().map_or(0, |r| r.ids.dim(0))).or_default().push(sample);
    }
    samples
}

/// The inputs of these samples, which have equally many reference tokens, with those tokens in the sequence.
fn sequences(tape: &Tape, inputs: &Flux2Inputs, samples: &[usize]) -> Result<Flux2Inputs> {
    let hidden_states = pick(tape, &inputs.hidden_states, samples)?;
    let references: Vec<&ReferenceTokens> = samples.iter().filter_map(|&s| inputs.references[s].as_ref()).collect();
    let (tokens, dtype) = (hidden_states.tensor().dim(1), hidden_states.tensor().dtype());
    let mut ids = Vec::new();
    for (i, &sample) in samples.iter().enumerate() {
        ids.push(inputs.img_ids.rows(sample, 1)?.reshape(&[tokens, inputs.img_ids.last_dim()])?);
        ids.extend(references.get(i).map(|r| r.ids.clone()));
    }
    let img_ids = Tensor::cat_rows(&ids)?;
    let shape = [samples.len(), img_ids.dim(0) / samples.len(), img_ids.dim(1)];
    Ok(Flux2Inputs {
        hidden_states: match references.is_empty() {
            true => hidden_states,
            false => tape.cat_tokens(&[&hidden_states, &Var::constant(stacked(&references, dtype)?)])?,
        },
        encoder_hidden_states: pick(tape, &inputs.encoder_hidden_states, samples)?,
        timestep: pick_rows(&inputs.timestep, samples)?,
        img_ids: img_ids.reshape(&shape)?,
        txt_ids: pick_rows(&inputs.txt_ids, samples)?,
        guidance: inputs.guidance.as_ref().map(|guidance| pick_rows(guidance, samples)).transpose()?,
        references: Vec::new(),
    })
}

/// `[samples, tokens, channels]`.
fn stacked(references: &[&ReferenceTokens], dtype: DType) -> Result<Tensor> {
    let rows: Vec<Tensor> = references.iter().map(|r| r.hidden_states.clone()).collect();
    let rows = Tensor::cat_rows(&rows)?;
    let shape = [references.len(), rows.dim(0) / references.len(), rows.dim(1)];
    Ok(rows.reshape(&shape)?.to_dtype(dtype)?)
}

fn pick(tape: &Tape, x: &Var, samples: &[usize]) -> Result<Var> {
    if samples.len() == x.tensor().dim(0) {
        return Ok(x.clone());
    }
    let rows = samples.iter().map(|&sample| tape.narrow(x, 0, sample, 1)).collect::<Result<Vec<_>, _>>()?;
    Ok(tape.cat(&rows.iter().collect::<Vec<_>>(), 0)?)
}

fn pick_rows(x: &Tensor, samples: &[usize]) -> Result<Tensor> {
    let rows = samples.iter().map(|&sample| x.rows(sample, 1)).collect::<Result<Vec<_>, _>>()?;
    Ok(Tensor::cat_rows(&rows)?)
}

fn check(references: &[Option<ReferenceTokens>], batch: usize, channels: usize) -> Result<()> {
    if !references.is_empty() && references.len() != batch {
        return Err(misfit("references", format!("[{batch}] (one entry per sample)"), &[references.len()]));
    }
    for ReferenceTokens { hidden_states, ids } in references.iter().flatten() {
        let tokens = hidden_states.shape().first().copied().unwrap_or(0);
        if tokens == 0 || *hidden_states.shape() != [tokens, channels] {
            return Err(misfit("references.hidden_states", format!("[tokens, {channels}]"), hidden_states.shape()));
        }
        if *ids.shape() != [tokens, 4] || ids.dtype() != DType::I64 {
            return Err(misfit("references.ids", format!("[{tokens}, 4] (int64)"), ids.shape()));
        }
    }
    Ok(())
}

fn misfit(argument: &'static str, expected: String, got: &[usize]) -> crate::error::Error {
    EngineError::Shape { op: "Flux2Transformer.forward", argument, expected, got: got.to_vec() }.into()
}
