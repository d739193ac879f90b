//! The operations of a training step at the sizes of `mid` (width 1024, 8 heads, 1152 tokens), forward and backward, in
//! float32 and bfloat16.
//!
//! ```sh
//! npm run bench -- ops
//! ```

use criterion::{Criterion, criterion_group, criterion_main};
use flowtune_engine::ops::linear::LowRank;
use flowtune_engine::ops::rope::RopeTable;
use flowtune_engine::{DType, Gradients, Result, Tape, Tensor, Var};

const TOKENS: usize = 1152;
const DIM: usize = 1024;
const HEADS: usize = 8;
const RANK: usize = 16;

fn tensor(shape: &[usize], dtype: DType) -> Tensor {
    let values = (0..shape.iter().product::<usize>()).map(|i| ((i * 37) % 101) as f32 * 0.02 - 1.0).collect();
    Tensor::from_vec(values, shape).and_then(|t: Tensor| t.to_dtype(dtype)).expect("a float tensor of these extents")
}

/// Forward and backward of `op` on a tracked input.
fn step(c: &mut Criterion, name: &str, input: &Tensor, op: impl Fn(&Tape, &Var) -> Result<Var>) {
    c.bench_function(name, |b| {
        b.iter(|| forward_and_backward(input, &op).expect("the operation runs"));
    });
}

fn forward_and_backward(input: &Tensor, op: impl Fn(&Tape, &Var) -> Result<Var>) -> Result<()> {
    let tape = Tape::new();
    let x = tape.leaf(input.clone());
    let y = op(&tape, &x)?;
    let seed = Tensor::full(1f32, y.tensor().shape()).to_dtype(y.tensor().dtype())?;
    tape.backward(&y, seed, &[&x], &mut Gradients::new()).map(drop)
}

fn ops(c: &mut Criterion) {
    for dtype in [DType::F32, DType::BF16] {
        let name = |op: &str| format!("{op} {}", dtype.name());
        let constant = |shape: &[usize], dtype| Var::constant(tensor(shape, dtype));
        let x = tensor(&[1, TOKENS, DIM], dtype);
        let residual = tensor(&[1, TOKENS, DIM], DType::F32);
        let heads = tensor(&[1, TOKENS, HEADS, DIM / HEADS], dtype);
        let (a, b) = (constant(&[RANK, DIM], DType::F32), constant(&[4 * DIM, RANK], DType::F32));
        for weights in [dtype, DType::I8] {
            let weight = constant(&[4 * DIM, DIM], weights);
            step(c, &format!("linear {} x {}", dtype.name(), weights.name()), &x, |t, x| {
                t.linear(x, &weight, Some(LowRank { a: &a, b: &b, scale: 1.0 }))
            });
        }
        let (scale, shift) = (constant(&[1, DIM], DType::F32), constant(&[1, DIM], DType::F32));
        step(c, &name("layer_norm_modulate"), &residual, |t, x| t.layer_norm_modulate(x, &scale, &shift, 1e-6, dtype));
        let y = Var::constant(x.clone());
        step(c, &name("gated_residual"), &residual, |t, x| t.gated_residual(x, &scale, &y));
        let half = tensor(&[1, TOKENS, DIM / HEADS / 2], DType::F32);
        let (table, weight) = (RopeTable { cos: half.clone(), sin: half }, constant(&[DIM / HEADS], DType::F32));
        step(c, &name("rms_norm_rope"), &heads, |t, x| t.rms_norm_rope(x, &weight, 1e-6, &table));
        step(c, &name("swiglu"), &tensor(&[1, TOKENS, 6 * DIM], dtype), |t, x| t.swiglu(x));
        step(c, &name("attention"), &heads, |t, x| t.attention(x, x, x));
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(20);
    targets = ops
}
criterion_main!(benches);
