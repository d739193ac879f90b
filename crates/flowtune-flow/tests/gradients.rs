//! A whole training step: exactly what trains gets a gradient, each finite and not zero, and recomputing the blocks
//! changes nothing.

use std::collections::BTreeSet;

use flowtune_engine::{Gradients, Param, ParamId, Tape, Tensor};
use flowtune_flow::random::{Purpose, normal_batch};
use flowtune_flow::{Batch, FlowMatchingOptions, FlowMatchingPipeline, Flux2Adapter, Given};
use flowtune_models::lora::{LoraConfig, add_lora};
use flowtune_models::transformer::{Flux2Config, Flux2Transformer};

fn config(guidance_embeds: bool) -> Flux2Config {
    Flux2Config {
        num_layers: 2,
        num_single_layers: 2,
        attention_head_dim: 16,
        num_attention_heads: 2,
        joint_attention_dim: 24,
        axes_dims_rope: vec![4; 4],
        guidance_embeds,
        ..Flux2Config::default()
    }
}

/// Normal numbers of the given deviation; each tensor has a stream of its own.
fn normal(seed: u64, shape: &[usize], deviation: f32) -> Tensor {
    let count = shape.iter().product();
    let mut values = normal_batch(seed, 0, 0, Purpose::Noise, &[1, count]).unwrap();
    values.as_mut_slice::<f32>().unwrap().iter_mut().for_each(|x| *x *= deviation);
    values.reshape(shape).unwrap()
}

fn model(guidance_embeds: bool) -> Flux2Transformer {
    let mut seed = 0;
    Flux2Transformer::build(config(guidance_embeds), &mut |name, shape| {
        seed += 1;
        let fan_in = *shape.last().unwrap() as f32;
        Ok(if name.contains("norm_") && shape.len() == 1 {
            Tensor::full(1f32, shape)
        } else {
            normal(seed, shape, 1.2 / fan_in.sqrt())
        })
    })
    .unwrap()
}

fn gradients(model: &Flux2Transformer, tape: Tape) -> Gradients {
    let adapter = Flux2Adapter { guidance_scale: 3.5, use_guidance_embeds: model.config().guidance_embeds };
    let options = FlowMatchingOptions { cfg_dropout_prob: 0.0, ..FlowMatchingOptions::default() };
    let pipeline = FlowMatchingPipeline::new(adapter, options, None);
    let batch = Batch {
        image_latents: normal(1001, &[2, 128, 3, 2], 1.0),
        text_embeddings: normal(1002, &[2, 5, 24], 1.0),
        loss_mask: None,
        guidance: None,
        references: Vec::new(),
    };
    let step = pipeline.step(&tape, model, &batch, (7, 0, 0), Given::default()).unwrap();
    let mut gradients = Gradients::new();
    tape.backward(&step.loss, Tensor::full(1f32, &[]), &[], &mut gradients).unwrap();
    gradients
}

fn assert_exactly(gradients: &Gradients, params: &[Param]) {
    let want: BTreeSet<ParamId> = params.iter().map(Param::id).collect();
    assert_eq!(gradients.ids().collect::<BTreeSet<_>>(), want);
    for param in params {
        let g = gradients.get(param).unwrap();
        assert_eq!(g.shape(), param.value().shape(), "{}", param.name());
        let g = g.as_slice::<f32>().unwrap();
        assert!(g.iter().all(|x| x.is_finite()), "{} is not finite", param.name());
        assert!(g.iter().any(|x| *x != 0.0), "{} is zero", param.name());
    }
}

fn assert_same(a: &Gradients, b: &Gradients, params: &[Param]) {
    for param in params {
        let (a, b) = (a.get(param).unwrap(), b.get(param).unwrap());
        assert_eq!(a.as_slice::<f32>().unwrap(), b.as_slice::<f32>().unwrap(), "{}", param.name());
    }
}

#[test]
fn lora_trains_its_own_weights_only() {
    for guidance_embeds in [true, false] {
        let model = model(guidance_embeds);
        let params = add_lora(&model, &LoraConfig { rank: 2, alpha: 3.0, ..LoraConfig::default() }, 5).unwrap();
        // B starts at zero, which would make the gradient of A zero.
        for (i, p) in params.iter().filter(|p| p.name().contains("lora_B")).enumerate() {
            p.set(normal(2000 + i as u64, p.value().shape(), 0.2));
        }
        let recomputed = gradients(&model, Tape::new());
        assert_exactly(&recomputed, &params);
        assert_same(&recomputed, &gradients(&model, Tape::without_checkpointing()), &params);
    }
}

#[test]
fn full_fine_tuning_trains_every_weight() {
    for guidance_embeds in [true, false] {
        let model = model(guidance_embeds);
        model.params().iter().for_each(|p| p.set_trainable(true));
        let recomputed = gradients(&model, Tape::new());
        assert_exactly(&recomputed, model.params());
        assert_same(&recomputed, &gradients(&model, Tape::without_checkpointing()), model.params());
    }
}
