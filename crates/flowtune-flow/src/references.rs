//! Reference latents of an edit, as the transformer takes them.
//! Source: diffusers `pipeline_flux2.py`, `_prepare_image_ids` and `prepare_image_latents`.

use flowtune_engine::ops::layout::pack_latents;
use flowtune_engine::{DType, Error as EngineError, Tensor};
use flowtune_models::transformer::ReferenceTokens;

use crate::error::{Error, Result};

/// The first reference's place in time, and how far the next is from it; the image that is made is at 0.
const TIME_SCALE: i64 = 10;

/// int64 `[1, Σ h·w, 4]`: rows (T = 10 + 10·i, h, w, L = 0) of reference i, w fastest.
pub(crate) fn position_ids(references: &[Tensor]) -> Result<Tensor> {
    let mut ids = Vec::new();
    for (time, reference) in (1..).zip(references) {
        let expected = || "[1, 128, h, w] or [128, h, w]".to_owned();
        let [_, h, w] = extents(reference).ok_or_else(|| misfit(expected(), reference))?;
        let row = |y: i64| (0..w as i64).flat_map(move |x| [TIME_SCALE * time, y, x, 0]);
        ids.extend((0..h as i64).flat_map(row));
    }
    let tokens = ids.len() / 4;
    Ok(Tensor::from_vec(ids, &[1, tokens, 4])?)
}

/// Tokens of each sample's references; none for a sample without. Empty when no sample has any.
pub(crate) fn tokens(
    references: &[Vec<Tensor>],
    samples: usize,
    channels: usize,
) -> Result<Vec<Option<ReferenceTokens>>> {
    check(references, samples, channels)?;
    references.iter().map(|of_sample| (!of_sample.is_empty()).then(|| joined(of_sample)).transpose()).collect()
}

/// One sample's references, one behind the other.
fn joined(references: &[Tensor]) -> Result<ReferenceTokens> {
    let mut packed = Vec::with_capacity(references.len());
    for reference in references {
        let image = match reference.shape() {
            &[channels, h, w] => reference.reshape(&[1, channels, h, w])?,
            _ => reference.clone(),
        };
        let tokens = pack_latents(&image)?;
        packed.push(tokens.reshape(&tokens.shape()[1..])?);
    }
    let ids = position_ids(references)?;
    Ok(ReferenceTokens { hidden_states: Tensor::cat_rows(&packed)?, ids: ids.reshape(&ids.shape()[1..])? })
}

/// Refuses references that are not one list per sample, or not float32 `[1, channels, h, w]` or `[channels, h, w]` each.
pub(crate) fn check(references: &[Vec<Tensor>], samples: usize, channels: usize) -> Result<()> {
    if !references.is_empty() && references.len() != samples {
        let got = references.len();
        return Err(Error::Invalid(format!("references must have {samples} entries, one per sample, got {got}")));
    }
    for (sample, of_sample) in references.iter().enumerate() {
        for (i, reference) in of_sample.iter().enumerate() {
            if reference.is_empty() || extents(reference).is_none_or(|[c, ..]| c != channels) {
                let which = format!("references[{sample}][{i}]");
                return Err(misfit(format!("[1, {channels}, h, w] or [{channels}, h, w] ({which})"), reference));
            }
            if reference.dtype() != DType::F32 {
                let got = reference.dtype().name();
                return Err(EngineError::DType { op: "references", expected: "float32", got }.into());
            }
        }
    }
    Ok(())
}

/// Channels, height and width of `[1, channels, h, w]` or `[channels, h, w]`.
fn extents(reference: &Tensor) -> Option<[usize; 3]> {
    match *reference.shape() {
        [1, channels, h, w] | [channels, h, w] => Some([channels, h, w]),
        _ => None,
    }
}

fn misfit(expected: String, got: &Tensor) -> Error {
    EngineError::Shape { op: "step", argument: "references", expected, got: got.shape().to_vec() }.into()
}
