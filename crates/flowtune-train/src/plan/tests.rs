//! The rehearsal of a step against the step itself: an allocator that counts what this thread has, in blocks of the addon's.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::collections::HashMap;

use flowtune_engine::{Gradients, Keep, Tape, Tensor, TensorAllocator};
use flowtune_flow::{Batch, FlowMatchingOptions, FlowMatchingPipeline, Flux2Adapter, Given};
use flowtune_models::Precision;
use flowtune_models::lora::{LoraConfig, add_lora};
use flowtune_models::transformer::{Flux2Config, Flux2Transformer};

use super::rehearsal::{Denoising, Ledger, Sequence, Step, Training};
use crate::optimizer::AdamW;
use crate::recipe::OptimizerRecipe;

struct Counting;

thread_local! {
    static LIVE: Cell<isize> = const { Cell::new(0) };
    static PEAK: Cell<isize> = const { Cell::new(0) };
}

fn count(bytes: isize) {
    // A thread that ends has no counters any more.
    let _ = LIVE.try_with(|live| {
        live.set(live.get() + bytes);
        let _ = PEAK.try_with(|peak| peak.set(peak.get().max(live.get())));
    });
}

fn block(bytes: usize) -> isize {
    TensorAllocator::block_size(bytes) as isize
}

// SAFETY: the system's allocator does it all.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(block(layout.size()));
        // SAFETY: as the caller promised.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count(-block(layout.size()));
        // SAFETY: as the caller promised.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(block(layout.size()));
        // SAFETY: as the caller promised.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(block(size) - block(layout.size()));
        // SAFETY: as the caller promised.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn config() -> Flux2Config {
    Flux2Config {
        num_layers: 2,
        num_single_layers: 3,
        num_attention_heads: 2,
        joint_attention_dim: 96,
        guidance_embeds: true,
        ..Flux2Config::default()
    }
}

/// Bytes of a model with its optimizer, and at most of a step.
fn real(precision: Precision, lora: bool, step: Step) -> (isize, isize) {
    let before = LIVE.get();
    let model = Flux2Transformer::random(config(), 0, precision).unwrap();
    let params = match lora {
        true => add_lora(&model, &LoraConfig::default(), 0).unwrap(),
        false => {
            model.params().iter().for_each(|p| p.set_trainable(true));
            model.params().to_vec()
        }
    };
    let optimizer = AdamW::new(params, OptimizerRecipe::default());
    let pipeline = FlowMatchingPipeline::new(Flux2Adapter::default(), FlowMatchingOptions::default(), None);
    let loaded = LIVE.get() - before;
    let mut gradients = Gradients::new();
    let once = |gradients: &mut Gradients| {
        let side = (step.sequence.image as f64).sqrt() as usize;
        let batch = Batch {
            image_latents: Tensor::full(0.5f32, &[step.batch, 128, side, side]),
            text_embeddings: Tensor::full(0.5f32, &[step.batch, step.sequence.text, 96]),
            loss_mask: None,
            guidance: None,
            references: Vec::new(),
        };
        let tape = Tape::keeping(step.keep);
        let output = pipeline.step(&tape, &model, &batch, (0, 0, 0), Given::default()).unwrap();
        tape.backward(&output.loss, Tensor::full(1f32, &[]), &[], gradients).unwrap();
    };
    once(&mut gradients);
    PEAK.set(LIVE.get());
    (1..step.accumulation).for_each(|_| once(&mut gradients));
    gradients.clear();
    if step.accumulation == 1 {
        PEAK.set(LIVE.get());
        once(&mut gradients);
    }
    drop(optimizer);
    (loaded, PEAK.get() - before)
}

fn rehearsed(precision: Precision, lora: bool, step: Step) -> (isize, isize) {
    let (outline, weights) = Flux2Transformer::outline(config()).unwrap();
    let lora_config = LoraConfig::default();
    let selected = lora_config.selected(&outline).unwrap();
    let ranks: HashMap<String, usize> =
        selected.into_iter().filter(|_| lora).map(|module| (module.to_owned(), lora_config.rank)).collect();
    let ledger = Ledger::default();
    // Attention's threads are not the one that is counted.
    let model = Denoising { config: &config(), weights: &weights, stored: &[], precision, ranks: &ranks, threads: 0 };
    let training = Training::load(&ledger, model);
    let loaded = ledger.peak().total();
    training.step(step);
    (loaded as isize, ledger.peak().total() as isize)
}

#[test]
fn a_rehearsed_step_takes_what_the_step_takes() {
    const BOUND: f64 = 0.03;
    let full = |precision: Precision| Precision { trainable: true, ..precision };
    let cases = [
        (Precision::FLOAT32, true, Keep::Everything),
        (Precision::FLOAT32, true, Keep::Inputs),
        (Precision::BFLOAT16, true, Keep::Everything),
        (Precision::BFLOAT16, true, Keep::Inputs),
        (Precision::INT8, true, Keep::Everything),
        (Precision::INT8, true, Keep::Inputs),
        (Precision::NF4, true, Keep::Everything),
        (full(Precision::FLOAT32), false, Keep::Everything),
        (full(Precision::FLOAT32), false, Keep::Inputs),
        (full(Precision::BFLOAT16), false, Keep::Everything),
        (full(Precision::BFLOAT16), false, Keep::Inputs),
    ];
    let mut report = String::new();
    let mut worst = 0f64;
    for (precision, lora, keep) in cases {
        for (batch, image, accumulation) in [(1, 256, 1), (2, 64, 2)] {
            let sequence = Sequence { image, text: 48 };
            let step = Step { batch, sequence, keep, accumulation, drops_captions: false };
            let (real, rehearsed) = (real(precision, lora, step), rehearsed(precision, lora, step));
            let off = |a: isize, b: isize| b as f64 / a as f64 - 1.0;
            let (loaded, peak) = (off(real.0, rehearsed.0), off(real.1, rehearsed.1));
            report += &format!(
                "{precision:?} lora {lora} {keep:?} batch {batch} image {image} ×{accumulation}: {real:?} rehearsed {rehearsed:?} {loaded:+.3} {peak:+.3}\n"
            );
            worst = worst.max(loaded.abs()).max(peak.abs());
        }
    }
    assert!(worst < BOUND, "{report}");
}
