//! Parts of a weight in fewer bits are those of the whole.

use super::{LowRank, Part};
use crate::{DType, Gradients, Result, Tape, Tensor, Var};

fn numbers(shape: &[usize], step: usize) -> Tensor {
    let count = shape.iter().product();
    Tensor::new((0..count).map(|i: usize| ((i * step % 101) as f32 - 50.0) * 0.02).collect(), shape)
}

type Layer = dyn Fn(&Tape, &[&Var], &Var, LowRank, &[Part]) -> Result<Vec<Var>>;

/// Of two inputs side by side three parts, two of them of some tokens; then the gradients of the inputs, A and B where the
/// last part has none.
fn made(weight: &Tensor, dtype: DType, layer: &Layer) -> Result<Vec<Tensor>> {
    let parts = [
        Part { outputs: 0..20, tokens: 0..9 },
        Part { outputs: 20..50, tokens: 4..9 },
        Part { outputs: 60..70, tokens: 4..9 },
    ];
    let tape = Tape::new();
    let inputs = [numbers(&[2, 9, 24], 37).to_dtype(dtype)?, numbers(&[2, 9, 40], 53).to_dtype(dtype)?];
    let leaves = inputs.into_iter().chain([numbers(&[3, 64], 29), numbers(&[70, 3], 31)]);
    let leaves: Vec<Var> = leaves.map(|x| tape.leaf(x)).collect();
    let low_rank = LowRank { a: &leaves[2], b: &leaves[3], scale: 0.5 };
    let parts = layer(&tape, &[&leaves[0], &leaves[1]], &Var::constant(weight.clone()), low_rank, &parts)?;
    let flat = parts[..2].iter().map(|part| tape.reshape(part, &[1, part.tensor().len()]));
    let flat = tape.cat_last(&flat.collect::<Result<Vec<_>>>()?.iter().collect::<Vec<_>>())?;
    let seed = numbers(flat.tensor().shape(), 41).to_dtype(dtype)?;
    let gradients = tape.backward(&flat, seed, &leaves.iter().collect::<Vec<_>>(), &mut Gradients::new())?;
    Ok(parts.into_iter().map(Var::into_tensor).chain(gradients.into_iter().flatten()).collect())
}

#[test]
fn parts_of_a_weight_in_fewer_bits_are_those_of_the_whole() -> Result<()> {
    for (kind, dtype, bound) in [
        (DType::I8, DType::F32, 1e-5),
        (DType::I8, DType::BF16, 2e-2),
        (DType::Nf4, DType::F32, 1e-5),
        (DType::Nf4, DType::BF16, 2e-2),
    ] {
        let weight = numbers(&[70, 64], 23).to_dtype(kind)?;
        let parts = made(&weight, dtype, &|t, xs, w, low_rank, parts| t.linear_parts(xs, w, Some(low_rank), parts))?;
        let whole = made(&weight, dtype, &|t, xs, w, low_rank, parts| t.joined_and_cut(xs, w, Some(low_rank), parts))?;
        assert_eq!((parts.len(), whole.len()), (7, 7));
        for (i, (got, want)) in parts.iter().zip(&whole).enumerate() {
            assert_eq!((got.shape(), got.dtype()), (want.shape(), want.dtype()));
            let (got, want) = (got.to_f32_vec()?, want.to_f32_vec()?);
            let most = want.iter().fold(0f32, |most, x| most.max(x.abs()));
            let off = got.iter().zip(&want).fold(0f32, |most, (x, y)| most.max((x - y).abs()));
            assert!(most > 0.0 && off <= bound * most, "{kind:?} {dtype:?}, {i}: off by {off} of {most}");
        }
    }
    Ok(())
}
