//! Reference latents in a step: position ids, samples with different numbers of them, what is refused.

use flowtune_engine::{Gradients, Tape, Tensor, Var};
use flowtune_flow::random::{Purpose, normal_batch};
use flowtune_flow::{
    Batch, FlowMatching, FlowMatchingContext, FlowMatchingOptions, FlowMatchingPipeline, Flux2Adapter, Given,
    ModelAdapter,
};
use flowtune_models::Precision;
use flowtune_models::lora::{LoraConfig, add_lora};
use flowtune_models::transformer::{Flux2Config, Flux2Transformer, ReferenceTokens};

const CHANNELS: usize = 8;

fn normal(seed: u64, shape: &[usize]) -> Tensor {
    let count = shape.iter().product();
    normal_batch(seed, 0, 0, Purpose::Noise, &[1, count]).unwrap().reshape(shape).unwrap()
}

fn model() -> Flux2Transformer {
    let config = Flux2Config {
        in_channels: CHANNELS,
        num_layers: 1,
        num_single_layers: 1,
        attention_head_dim: 8,
        num_attention_heads: 2,
        joint_attention_dim: 6,
        axes_dims_rope: vec![2; 4],
        guidance_embeds: true,
        ..Flux2Config::default()
    };
    Flux2Transformer::random(config, 3, Precision::FLOAT32).unwrap()
}

/// References of the given sizes (h, w), for each sample.
fn references(sizes: &[&[(usize, usize)]]) -> Vec<Vec<Tensor>> {
    let one = |s: usize, i: usize, (h, w): (usize, usize)| normal(50 + 10 * s as u64 + i as u64, &[1, CHANNELS, h, w]);
    sizes.iter().enumerate().map(|(s, of)| of.iter().enumerate().map(|(i, &size)| one(s, i, size)).collect()).collect()
}

/// Two samples have 6 reference tokens, though not of the same sizes; the others have 3, 0 and 9.
fn batch() -> Batch {
    Batch {
        image_latents: normal(1, &[5, CHANNELS, 3, 2]),
        text_embeddings: normal(2, &[5, 4, 6]),
        loss_mask: None,
        guidance: Some(normal(3, &[5])),
        references: references(&[&[(2, 3)], &[(1, 3)], &[], &[(3, 2)], &[(2, 2), (5, 1)]]),
    }
}

fn given() -> Given {
    Given {
        sigma: Some(Tensor::from_vec(vec![0.2f32, 0.4, 0.5, 0.7, 0.9], &[5]).unwrap()),
        noise: Some(normal(4, &[5, CHANNELS, 3, 2])),
        drop_caption: Some(vec![false; 5]),
        ..Given::default()
    }
}

/// The samples of a batch, in this order.
fn picked(batch: &Batch, given: &Given, samples: &[usize]) -> (Batch, Given) {
    let pick =
        |x: &Tensor| Tensor::cat_rows(&samples.iter().map(|&s| x.rows(s, 1).unwrap()).collect::<Vec<_>>()).unwrap();
    let batch = Batch {
        image_latents: pick(&batch.image_latents),
        text_embeddings: pick(&batch.text_embeddings),
        loss_mask: batch.loss_mask.as_ref().map(pick),
        guidance: batch.guidance.as_ref().map(pick),
        references: samples.iter().map(|&s| batch.references[s].clone()).collect(),
    };
    let given = Given {
        sigma: given.sigma.as_ref().map(pick),
        noise: given.noise.as_ref().map(pick),
        drop_caption: Some(vec![false; samples.len()]),
        ..Given::default()
    };
    (batch, given)
}

/// Loss, prediction and the gradients of a step.
fn step(model: &Flux2Transformer, batch: &Batch, given: Given) -> (f64, Tensor, Gradients) {
    let pipeline = FlowMatchingPipeline::new(Flux2Adapter::default(), FlowMatchingOptions::default(), None);
    let (tape, mut gradients) = (Tape::new(), Gradients::new());
    let output = pipeline.step(&tape, model, batch, (0, 0, 0), given).unwrap();
    let (loss, prediction) = (output.metrics.loss, output.prediction.tensor().clone());
    if output.loss.is_tracked() {
        tape.backward(&output.loss, Tensor::full(1f32, &[]), &[], &mut gradients).unwrap();
    }
    (loss, prediction, gradients)
}

fn assert_close(a: &Tensor, b: &Tensor) {
    assert_eq!(a.shape(), b.shape());
    let (a, b) = (a.as_slice::<f32>().unwrap(), b.as_slice::<f32>().unwrap());
    let scale = b.iter().fold(0f32, |m, x| m.max(x.abs()));
    assert!(a.iter().zip(b).all(|(a, b)| (a - b).abs() <= 1e-5 * scale), "{a:?}\n{b:?}");
}

#[test]
fn references_are_numbered_in_time() {
    let sample = &references(&[&[(1, 2), (2, 1)]])[0];
    let bare = [sample[0].reshape(&[CHANNELS, 1, 2]).unwrap(), sample[1].clone()];
    for references in [&sample[..], &bare] {
        let ids = Flux2Adapter::default().prepare_image_ids(references).unwrap();
        assert_eq!(ids.shape(), [1, 4, 4]);
        assert_eq!(ids.as_slice::<i64>().unwrap(), [10, 0, 0, 0, 10, 0, 1, 0, 20, 0, 0, 0, 20, 1, 0, 0]);
    }
    let error = Flux2Adapter::default().prepare_image_ids(&[normal(1, &[CHANNELS, 2])]).unwrap_err();
    assert_eq!(error.code(), "SHAPE_MISMATCH");
}

#[test]
fn the_noisy_tokens_stay_as_they_are_and_references_are_packed_beside_them() {
    let (batch, given) = (batch(), given());
    let flow = FlowMatching::new(FlowMatchingOptions::default(), None);
    let context: FlowMatchingContext = flow.prepare(&batch, (0, 0, 0), given).unwrap().context;
    let inputs = Flux2Adapter::default().prepare_inputs(&context).unwrap();
    assert_eq!(
        (inputs.hidden_states.tensor().shape(), inputs.img_ids.shape()),
        (&[5, 6, CHANNELS][..], &[5, 6, 4][..])
    );
    let tokens: Vec<_> = inputs.references.iter().map(|r| r.as_ref().map(|r| r.ids.dim(0))).collect();
    assert_eq!(tokens, [Some(6), Some(3), None, Some(6), Some(9)]);
    let last = inputs.references[4].as_ref().unwrap();
    let second = Flux2Adapter::default().pack_latents(&batch.references[4][1]).unwrap();
    assert_eq!(last.hidden_states.rows(4, 5).unwrap().as_slice::<f32>().unwrap(), second.as_slice::<f32>().unwrap());
}

#[test]
fn a_batch_is_its_samples_one_by_one_in_any_order() {
    let (model, batch) = (model(), batch());
    let params = add_lora(&model, &LoraConfig::default(), 5).unwrap();
    for (i, b) in params.iter().filter(|p| p.name().contains("lora_B")).enumerate() {
        b.set(normal(100 + i as u64, b.value().shape()));
    }
    let (loss, prediction, gradients) = step(&model, &batch, given());
    assert_eq!(gradients.len(), params.len());
    let (mut losses, mut summed) = (0.0, Gradients::new());
    for sample in 0..5 {
        let (single, given) = picked(&batch, &given(), &[sample]);
        let (loss, of_single, gradients) = step(&model, &single, given);
        assert_close(&prediction.rows(sample, 1).unwrap(), &of_single);
        losses += loss / 5.0;
        for param in &params {
            summed.accumulate(param.id(), gradients.get(param).unwrap().clone()).unwrap();
        }
    }
    assert!((loss - losses).abs() < 1e-5 * losses, "{loss} {losses}");
    for param in &params {
        let mean: Vec<f32> = summed.get(param).unwrap().as_slice::<f32>().unwrap().iter().map(|g| g / 5.0).collect();
        assert_close(&Tensor::from_vec(mean, param.value().shape()).unwrap(), gradients.get(param).unwrap());
    }
    let order = [3, 1, 4, 0, 2];
    let (shuffled, given) = picked(&batch, &given(), &order);
    let (shuffled_loss, of_shuffled, _) = step(&model, &shuffled, given);
    assert!((shuffled_loss - loss).abs() < 1e-5 * loss);
    for (i, sample) in order.into_iter().enumerate() {
        assert_close(&of_shuffled.rows(i, 1).unwrap(), &prediction.rows(sample, 1).unwrap());
    }
}

#[test]
fn what_a_reference_shows_and_its_place_matter_only_to_its_sample() {
    let (model, batch) = (model(), batch());
    let (_, before, _) = step(&model, &batch, given());
    let mut changed = batch.clone();
    changed.references[4].swap(0, 1);
    let (_, after, _) = step(&model, &changed, given());
    for sample in 0..5 {
        let rows = [&before, &after].map(|x| x.rows(sample, 1).unwrap().to_f32_vec().unwrap());
        assert_eq!(rows[0] == rows[1], sample != 4, "sample {sample}");
    }
}

#[test]
fn the_noise_level_does_not_count_reference_tokens() {
    let flow = FlowMatching::new(FlowMatchingOptions { flow_shift: Default::default(), ..Default::default() }, None);
    let sigma = |batch: &Batch| flow.prepare(batch, (1, 2, 3), Given::default()).unwrap().context.sigma;
    let without = Batch { references: Vec::new(), ..batch() };
    assert_eq!(sigma(&batch()).to_f32_vec().unwrap(), sigma(&without).to_f32_vec().unwrap());
}

#[test]
fn what_does_not_fit_is_named() {
    let with = |references: Vec<Vec<Tensor>>| Batch { references, ..batch() };
    let second = |tensor: Tensor| {
        let mut references = batch().references;
        references[4][1] = tensor;
        with(references)
    };
    let wrong_shape = "references must have shape [1, 8, h, w] or [8, h, w] (references[4][1]), but has";
    let cases = [
        (with(batch().references[..3].to_vec()), "RECIPE_INVALID", "5 entries, one per sample, got 3".to_owned()),
        (second(normal(1, &[CHANNELS, 4])), "SHAPE_MISMATCH", format!("{wrong_shape} [8, 4]")),
        (second(normal(1, &[16, 2, 2])), "SHAPE_MISMATCH", format!("{wrong_shape} [16, 2, 2]")),
        (second(normal(1, &[2, CHANNELS, 2, 2])), "SHAPE_MISMATCH", format!("{wrong_shape} [2, 8, 2, 2]")),
        (second(Tensor::full(0f32, &[CHANNELS, 0, 2])), "SHAPE_MISMATCH", format!("{wrong_shape} [8, 0, 2]")),
        (second(Tensor::full(0f64, &[CHANNELS, 2, 2])), "SHAPE_MISMATCH", "float32, got float64".to_owned()),
    ];
    let flow = FlowMatching::new(FlowMatchingOptions::default(), None);
    for (batch, code, words) in cases {
        let error = flow.prepare(&batch, (0, 0, 0), given()).unwrap_err();
        assert!(error.code() == code && error.to_string().contains(&words), "{error}");
    }
}

#[test]
fn the_model_refuses_references_that_do_not_fit_it() {
    let (model, batch) = (model(), batch());
    let flow = FlowMatching::new(FlowMatchingOptions::default(), None);
    let context = flow.prepare(&batch, (0, 0, 0), given()).unwrap().context;
    let inputs = Flux2Adapter::default().prepare_inputs(&context).unwrap();
    let tokens = |channels: usize, ids: usize| ReferenceTokens {
        hidden_states: normal(1, &[2, channels]),
        ids: Tensor::from_vec(vec![0i64; ids * 4], &[ids, 4]).unwrap(),
    };
    for (references, words) in [
        (vec![None; 2], "references must have shape [5]"),
        (vec![Some(tokens(7, 2)); 5], "references.hidden_states must have shape [tokens, 8]"),
        (vec![Some(tokens(CHANNELS, 3)); 5], "references.ids must have shape [2, 4]"),
    ] {
        let mut inputs = inputs.clone();
        inputs.references = references;
        let error = model.forward(&Tape::inference(), &inputs).unwrap_err();
        assert!(error.code() == "SHAPE_MISMATCH" && error.to_string().contains(words), "{error}");
    }
    let mut flat = inputs;
    flat.hidden_states = Var::constant(normal(1, &[5, CHANNELS]));
    assert_eq!(model.forward(&Tape::inference(), &flat).unwrap_err().code(), "SHAPE_MISMATCH");
}
