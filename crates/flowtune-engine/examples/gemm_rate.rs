//! Rate of the engine's matrix products on this machine, in GFLOP/s, as JSON: the median of several products of 2048³.
//!
//! ```sh
//! cargo run --release -p flowtune-engine --example gemm_rate
//! ```

use std::time::Instant;

use flowtune_engine::{DType, Result, Tape, Tensor, Var};

const SIDE: usize = 2048;
const RUNS: usize = 15;

fn main() -> Result<()> {
    // Linear layers in the types of a step; int8 includes rounding the activations.
    let rates =
        [("float32", DType::F32, DType::F32), ("bfloat16", DType::BF16, DType::BF16), ("int8", DType::BF16, DType::I8)]
            .map(|(name, activations, weights)| Ok(format!("\"{name}\": {:.0}", rate(activations, weights)?)));
    println!("{{{}}}", rates.into_iter().collect::<Result<Vec<_>>>()?.join(", "));
    Ok(())
}

fn rate(activations: DType, weights: DType) -> Result<f64> {
    let values: Vec<f32> = (0..SIDE * SIDE).map(|i| ((i * 37) % 101) as f32 * 0.02 - 1.0).collect();
    let square = Tensor::from_vec(values, &[SIDE, SIDE])?;
    let x = Var::constant(square.to_dtype(activations)?);
    let w = Var::constant(square.to_dtype(weights)?);
    let tape = Tape::inference();
    let mut seconds = Vec::with_capacity(RUNS);
    for _ in 0..RUNS {
        let start = Instant::now();
        tape.linear(&x, &w, None)?;
        seconds.push(start.elapsed().as_secs_f64());
    }
    seconds.sort_by(f64::total_cmp);
    Ok(2.0 * (SIDE as f64).powi(3) / seconds[RUNS / 2] / 1e9)
}
