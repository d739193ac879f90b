//! What a forward keeps for its backward. A program of its own, for memory is counted for the whole program.

use flowtune_engine::{Gradients, Keep, Tape, Tensor, Var, live_bytes};
use flowtune_models::Precision;
use flowtune_models::lora::{LoraConfig, add_lora};
use flowtune_models::transformer::{Flux2Config, Flux2Inputs, Flux2Transformer};

const IMAGE: usize = 48;
const TEXT: usize = 16;

fn config() -> Flux2Config {
    Flux2Config {
        in_channels: 8,
        num_layers: 2,
        num_single_layers: 3,
        attention_head_dim: 32,
        num_attention_heads: 2,
        joint_attention_dim: 24,
        axes_dims_rope: vec![8; 4],
        guidance_embeds: true,
        ..Flux2Config::default()
    }
}

fn numbers(shape: &[usize], seed: usize) -> Tensor {
    let value = |i: usize| ((i * 2_654_435_761 + seed * 40_503) % 65_537) as f32 / 32_768.0 - 1.0;
    Tensor::from_vec((0..shape.iter().product()).map(value).collect(), shape).unwrap()
}

fn ids(tokens: usize) -> Tensor {
    let id = |_: usize| (0..tokens as i64).flat_map(|i| [0, i / 8, i % 8, 0]);
    Tensor::from_vec((0..2).flat_map(id).collect(), &[2, tokens, 4]).unwrap()
}

/// Bytes that are kept between forward and backward, and all gradients.
fn step(model: &Flux2Transformer, keep: Keep) -> (usize, Vec<Vec<f32>>) {
    let inputs = Flux2Inputs {
        hidden_states: Var::constant(numbers(&[2, IMAGE, 8], 1)),
        encoder_hidden_states: Var::constant(numbers(&[2, TEXT, 24], 2)),
        timestep: Tensor::full(0.3f32, &[2]),
        img_ids: ids(IMAGE),
        txt_ids: ids(TEXT),
        guidance: Some(Tensor::full(1f32, &[2])),
        references: Vec::new(),
    };
    let before = live_bytes();
    let tape = Tape::keeping(keep);
    let prediction = model.forward(&tape, &inputs).unwrap();
    let kept = live_bytes() - before;
    let mut gradients = Gradients::new();
    tape.backward(&prediction, numbers(&[2, IMAGE, 8], 3), &[], &mut gradients).unwrap();
    (kept, gradients.tensors().map(|g| g.to_f32_vec().unwrap()).collect())
}

#[test]
fn a_budget_keeps_what_products_made_and_changes_no_bit() {
    for (precision, trains_all) in [(Precision::BFLOAT16, false), (Precision::INT8, false), (Precision::FLOAT32, true)]
    {
        let model = Flux2Transformer::random(config(), 5, precision).unwrap();
        match trains_all {
            true => model.params().iter().for_each(|param| param.set_trainable(true)),
            false => {
                let lora = add_lora(&model, &LoraConfig { rank: 4, alpha: 4.0, ..LoraConfig::default() }, 7).unwrap();
                // B begins as zeros, and A's gradients with it.
                lora.iter().enumerate().for_each(|(i, param)| param.set(numbers(param.value().shape(), i)));
            }
        }
        let [all, within, inputs] =
            [Keep::Everything, Keep::Within(usize::MAX / 2), Keep::Inputs].map(|keep| step(&model, keep));
        assert!(!all.1.is_empty() && all.1 == within.1 && all.1 == inputs.1, "{precision:?}");
        // Of a block: modulated inputs, rotated queries and keys, what the feed-forward gates.
        assert!(within.0 * 4 < all.0 * 3, "{precision:?}: {} of {} bytes", within.0, all.0);
        assert!(inputs.0 * 2 < within.0, "{precision:?}: {} of {} bytes", inputs.0, within.0);
    }
    assert_eq!(live_bytes(), 0);
}
