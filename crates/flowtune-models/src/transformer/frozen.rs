//! A frozen base that is smaller, or rests elsewhere, computes what its numbers compute.

use flowtune_engine::{DType, Device, Gradients, Keep, Param, Tape, Tensor, Var};

use super::{Flux2Config, Flux2Inputs, Flux2Transformer, Offload};
use crate::lora::{LoraConfig, add_lora};
use crate::precision::Precision;
use crate::weights::Weights;

fn config() -> Flux2Config {
    Flux2Config {
        in_channels: 8,
        num_layers: 1,
        num_single_layers: 2,
        attention_head_dim: 8,
        num_attention_heads: 3,
        joint_attention_dim: 6,
        axes_dims_rope: vec![2; 4],
        guidance_embeds: true,
        ..Flux2Config::default()
    }
}

fn numbers(shape: &[usize], seed: usize) -> Tensor {
    let value = |i: usize| ((i * 2_654_435_761 + seed * 40_503) % 65_537) as f32 / 32_768.0 - 1.0;
    Tensor::from_vec((0..shape.iter().product()).map(value).collect(), shape).unwrap()
}

fn ids(tokens: i64) -> Tensor {
    Tensor::from_vec((0..tokens).flat_map(|i| [0, i / 2, i % 2, 0]).collect(), &[1, tokens as usize, 4]).unwrap()
}

/// Prediction and the gradients of a LoRA.
fn step(model: &Flux2Transformer, keep: Keep) -> Vec<Tensor> {
    let lora = add_lora(model, &LoraConfig { rank: 2, alpha: 2.0, ..LoraConfig::default() }, 7).unwrap();
    // B begins as zeros, and A's gradients with it.
    lora.iter()
        .enumerate()
        .for_each(|(i, param)| param.set(numbers(param.value().shape(), i).to_device(&model.device()).unwrap()));
    let tape = Tape::keeping(keep);
    let inputs = Flux2Inputs {
        hidden_states: Var::constant(numbers(&[1, 6, 8], 1)),
        encoder_hidden_states: Var::constant(numbers(&[1, 4, 6], 2)),
        timestep: Tensor::full(0.3f32, &[1]),
        img_ids: ids(6),
        txt_ids: ids(4),
        guidance: Some(Tensor::full(1f32, &[1])),
        references: Vec::new(),
    };
    let prediction = model.forward(&tape, &inputs).unwrap();
    let mut gradients = Gradients::new();
    tape.backward(&prediction, numbers(&[1, 6, 8], 3), &[], &mut gradients).unwrap();
    let of = |param: &Param| gradients.get(param).unwrap().clone();
    std::iter::once(prediction.tensor().clone()).chain(lora.iter().map(of)).collect()
}

#[test]
fn weights_that_rest_on_the_host_come_to_every_product() {
    for precision in [Precision::FLOAT32, Precision::BFLOAT16, Precision::INT8, Precision::NF4] {
        let numbers = Flux2Transformer::random(config(), 5, Precision::FLOAT32).unwrap();
        let named = |param: &Param| (param.name().to_owned(), param.value());
        let weights = Weights::from_tensors(numbers.params().iter().map(named).collect()).on(&Device::composed());
        let load = |offload| Flux2Transformer::load_offloaded(config(), &weights, precision, offload).unwrap();
        let (there, resting) = (load(Offload::None), load(Offload::Blocks));
        assert!(there.params().iter().all(|param| !param.value().device().is_cpu()));
        let rest = |param: &&Param| param.value().device().is_cpu();
        assert!(resting.params().iter().filter(rest).count() > 10 && !resting.device().is_cpu());
        for keep in [Keep::Everything, Keep::Inputs] {
            // The second time, weights are expected.
            let want = step(&there, keep);
            for got in [step(&resting, keep), step(&resting, keep)] {
                let values = |tensors: &[Tensor]| tensors.iter().map(|x| x.to_f32_vec().unwrap()).collect::<Vec<_>>();
                assert_eq!(values(&got), values(&want), "{precision:?} {keep:?}");
            }
        }
    }
}

#[test]
fn an_nf4_base_computes_what_its_numbers_compute() {
    for keep in [Keep::Everything, Keep::Inputs] {
        let model = Flux2Transformer::random(config(), 5, Precision::NF4).unwrap();
        let in_blocks = |param: &&Param| param.value().dtype() == DType::Nf4;
        assert!(model.params().iter().filter(in_blocks).count() > 10);
        let number = |param: &Param| (param.name().to_owned(), param.value().to_dtype(DType::F32).unwrap());
        let weights = Weights::from_tensors(model.params().iter().map(number).collect());
        let plain = Flux2Transformer::load(config(), &weights, Precision::BFLOAT16).unwrap();
        assert!(!plain.params().iter().any(|param| param.value().dtype() == DType::Nf4));
        let (got, want) = (step(&model, keep), step(&plain, keep));
        assert_eq!(got.len(), want.len());
        for (i, (got, want)) in got.iter().zip(&want).enumerate() {
            assert!(got.to_f32_vec().unwrap().iter().any(|x| *x != 0.0), "{i}");
            assert_eq!(got.to_f32_vec().unwrap(), want.to_f32_vec().unwrap(), "{keep:?} {i}");
        }
    }
}
