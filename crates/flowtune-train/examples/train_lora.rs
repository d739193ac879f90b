//! A training loop by hand, in plain Rust: a LoRA on the embedded tiny model, without Node.
//!
//! ```sh
//! cargo run --release -p flowtune-train --example train_lora -- /tmp/my-lora
//! ```

use std::collections::HashMap;
use std::error::Error;
use std::path::{Path, PathBuf};

use flowtune_engine::{Gradients, Tape, Tensor};
use flowtune_flow::shift::FlowShift;
use flowtune_flow::{FlowMatchingOptions, FlowMatchingPipeline, Flux2Adapter, Given};
use flowtune_models::lora::{LoraConfig, add_lora, save_lora};
use flowtune_models::transformer::Flux2Transformer;
use flowtune_train::{AdamW, Control, OptimizerRecipe, Session, clip_grad_norm, flow_batch, resolve_recipe};

const STEPS: u64 = 20;
const SEED: u64 = 7;
const LR: f64 = 1e-3;

fn main() -> Result<(), Box<dyn Error>> {
    let out = std::env::args().nth(1).map_or_else(|| std::env::temp_dir().join("flowtune-train-lora"), PathBuf::from);
    let losses = train(&out)?;
    println!("first loss {:.3}, last {:.3}; the LoRA is in {}", losses[0], losses[losses.len() - 1], out.display());
    Ok(())
}

/// Trains for a few steps and writes the LoRA into `out`. Returns the loss of each step.
pub fn train(out: &Path) -> Result<Vec<f64>, Box<dyn Error>> {
    // A recipe describes the data; its session encodes what the cache lacks and frees the encoders.
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mut recipe = resolve_recipe(
        r#"{
            "model": { "path": "models/flux2-tiny" },
            "data": { "train": "examples/twemoji", "resolution": 64, "textTokens": 64 },
            "train": { "steps": 20, "batchSize": 4 }
        }"#,
        &root,
    )?;
    recipe.data.cache_dir = out.join("cache");
    let session = Session::open(&recipe, &|_| Ok(()), &Control::default())?;

    let model = Flux2Transformer::open(&recipe.model.path, recipe.precision())?;
    let config = LoraConfig { rank: 8, alpha: 8.0, ..LoraConfig::default() };
    let params = add_lora(&model, &config, SEED)?;

    let adapter = Flux2Adapter { use_guidance_embeds: model.config().guidance_embeds, ..Flux2Adapter::default() };
    let options = FlowMatchingOptions { flow_shift: FlowShift::Dynamic, ..FlowMatchingOptions::default() };
    let pipeline = FlowMatchingPipeline::new(adapter, options, Some(session.empty_prompt().clone()));
    let mut optimizer = AdamW::new(params.clone(), OptimizerRecipe::default());

    let mut losses = Vec::new();
    for step in 0..STEPS {
        let batch = flow_batch(session.train.batch(step)?);
        let tape = Tape::new();
        let output = pipeline.step(&tape, &model, &batch, (SEED, step, 0), Given::default())?;
        let mut gradients = Gradients::new();
        tape.backward(&output.loss, Tensor::full(1f32, &[]), &[], &mut gradients)?;
        let norm = clip_grad_norm(&mut gradients, 1.0)?;
        optimizer.step(&gradients, LR)?;
        println!("step {:2}  loss {:.3}  gradient norm {norm:.3}", step + 1, output.metrics.loss);
        losses.push(output.metrics.loss);
    }
    save_lora(&model, out, &HashMap::new())?;
    Ok(losses)
}
