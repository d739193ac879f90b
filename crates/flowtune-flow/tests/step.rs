//! The parts of a step: draws, checks, loss.

use flowtune_engine::{DType, Tape, Tensor, Var};
use flowtune_flow::shift::{FlowShift, TimeShift, time_shift};
use flowtune_flow::timesteps::TimestepSampling;
use flowtune_flow::{Batch, Error, FlowMatching, FlowMatchingOptions, Given};

const KEY: (u64, u64, u64) = (9, 4, 3);
const LATENTS: [usize; 4] = [2, 8, 3, 2];

fn flow(options: FlowMatchingOptions) -> FlowMatching {
    FlowMatching::new(options, None)
}

fn full(value: f32, shape: &[usize]) -> Tensor {
    Tensor::full(value, shape)
}

fn batch() -> Batch {
    let text_embeddings = full(0.5, &[2, 4, 6]);
    Batch {
        image_latents: full(0.5, &LATENTS),
        text_embeddings,
        loss_mask: None,
        guidance: None,
        references: Vec::new(),
    }
}

fn sampled(options: FlowMatchingOptions) -> (&'static str, Vec<f32>) {
    let sigmas = flow(options).sample_timesteps(KEY, 64, 1024).unwrap();
    (sigmas.method, sigmas.sigma.to_f32_vec().unwrap())
}

#[test]
fn sigmas_of_the_draws_are_the_samples() {
    use TimestepSampling::{LogitNormal, Lognorm, Mix, Mode, Uniform};
    for timestep_sampling in [Uniform, LogitNormal, Lognorm, Mode, Mix] {
        let options = FlowMatchingOptions { timestep_sampling, mix_uniform_ratio: 0.0, ..Default::default() };
        let (uniform, normal) = flow(options.clone()).draws(KEY, 64);
        let given = flow(options.clone()).sigmas_of(&uniform, &normal, 1024).unwrap();
        assert_eq!((given.method, given.sigma.to_f32_vec().unwrap()), sampled(options));
    }
}

#[test]
fn a_mixed_batch_is_uniform_and_says_so_where_batches_are_mixed() {
    let always = FlowMatchingOptions { mix_uniform_ratio: 1.0, ..Default::default() };
    let uniform = FlowMatchingOptions { timestep_sampling: TimestepSampling::Uniform, ..always.clone() };
    let (method, sigma) = sampled(always.clone());
    assert_eq!((method, &sigma), ("uniform", &sampled(uniform).1));
    let beta = FlowMatchingOptions { timestep_sampling: TimestepSampling::Beta, ..always.clone() };
    assert_eq!(sampled(beta).0, "beta");
    let without_noise = FlowMatchingOptions { use_sigma_noise: false, ..always };
    assert_eq!(sampled(without_noise).0, "uniform_no_shift");
}

#[test]
fn beta_has_draws_of_its_own() {
    let beta = FlowMatchingOptions { timestep_sampling: TimestepSampling::Beta, ..Default::default() };
    let error = flow(beta).sigmas_of(&[0.5], &[0.0], 16).unwrap_err();
    assert!(error.code() == "RECIPE_INVALID" && error.to_string().contains("beta"), "{error}");
}

#[test]
fn shifts_follow_automodels_formulas() {
    for (shift, tokens, expected) in [
        (FlowShift::Linear, 4096, 1.15f64.exp()),
        (FlowShift::Linear, 0, 0.5f64.exp()),
        (FlowShift::Sqrt, 128 * 128, 3.0),
        (FlowShift::Sqrt, 64 * 64, 1.5),
        (FlowShift::Sqrt, 16, 1.0),
        (FlowShift::Dynamic, 256, 0.5f64.exp()),
        (FlowShift::Constant(2.5), 256, 2.5),
    ] {
        assert!((shift.factor(tokens) - expected).abs() < 1e-12, "{shift:?} at {tokens}");
    }
    // s/(s + 1/t − 1) at t = 0.25, s = 1.5.
    assert!((time_shift(0.25, 64 * 64, TimeShift::Sqrt) - 1.0 / 3.0).abs() < 1e-6);
}

#[test]
fn what_does_not_fit_is_named() {
    let mask = |mask: Tensor| (Batch { loss_mask: Some(mask), ..batch() }, Given::default());
    let given = |given: Given| (batch(), given);
    let half = full(0.5, &LATENTS).to_dtype(DType::BF16).unwrap();
    let cases = [
        ((Batch { image_latents: full(0.5, &[2, 8, 6]), ..batch() }, Given::default()), "batch.image_latents must"),
        ((Batch { image_latents: full(0.5, &[0, 8, 3, 2]), ..batch() }, Given::default()), "batch.image_latents must"),
        ((Batch { text_embeddings: full(0.5, &[3, 4, 6]), ..batch() }, Given::default()), "batch.text_embeddings must"),
        ((Batch { guidance: Some(full(1.0, &[1])), ..batch() }, Given::default()), "batch.guidance must"),
        (
            mask(full(1.0, &[2, 1, 3, 3])),
            "batch.loss_mask must have shape [2 or 1, 8 or 1, 3, 2], but has [2, 1, 3, 3]",
        ),
        (mask(full(0.0, &[2, 1, 3, 2])), "batch.loss_mask must have shape [2 or 1, 8 or 1, 3, 2] with at least one"),
        (given(Given { noise: Some(full(0.0, &[2, 8, 3, 3])), ..Given::default() }), "noise must"),
        (given(Given { noise: Some(half), ..Given::default() }), "noise: expected dtype float32, got bfloat16"),
        (given(Given { weight: Some(full(1.0, &[3])), ..Given::default() }), "weight must"),
        (given(Given { sigma: Some(full(0.5, &[3])), ..Given::default() }), "sigma must have shape [2]"),
        (given(Given { sigma: Some(full(1.5, &[2])), ..Given::default() }), "sigma must be in 0..1, got 1.5"),
        (given(Given { sigma: Some(full(f32::NAN, &[2])), ..Given::default() }), "sigma must be in 0..1, got NaN"),
        (given(Given { drop_caption: Some(vec![true]), ..Given::default() }), "must have 2 entries, got 1"),
    ];
    for ((batch, given), words) in cases {
        let error = flow(FlowMatchingOptions::default()).prepare(&batch, KEY, given).unwrap_err();
        assert!(error.to_string().contains(words), "{error}");
        assert_eq!(
            error.code(),
            if words.contains("in 0..1") || words.contains("entries") { "RECIPE_INVALID" } else { "SHAPE_MISMATCH" }
        );
    }
}

#[test]
fn an_elementwise_squared_error_is_the_fused_one() {
    let flow = flow(FlowMatchingOptions::default());
    let mask = Tensor::from_vec(vec![1f32, 0.0, 1.0, 1.0, 0.0, 1.0], &[1, 1, 3, 2]).unwrap();
    for loss_mask in [None, Some(mask)] {
        let step = flow.prepare(&Batch { loss_mask, ..batch() }, KEY, Given::default()).unwrap();
        let (tape, prediction) = (Tape::new(), Var::constant(full(0.25, &LATENTS)));
        let error = tape.sub(&prediction, &Var::constant(step.target.clone())).unwrap();
        let elements = tape.square(&error).unwrap();
        let loss = |elements| flow.loss(&tape, &step, &prediction, elements, vec![], true).unwrap().metrics;
        let (own, fused) = (loss(Some(elements)), loss(None));
        assert!((own.loss - fused.loss).abs() < 1e-6 * fused.loss, "{} {}", own.loss, fused.loss);
        assert!((own.unweighted_loss - fused.unweighted_loss).abs() < 1e-6 * fused.unweighted_loss);
        assert_ne!(fused.loss, fused.unweighted_loss);
    }
}

#[test]
fn auxiliary_losses_are_added_whole_and_named_when_they_are_no_scalar() {
    let flow = flow(FlowMatchingOptions::default());
    let step = flow.prepare(&batch(), KEY, Given::default()).unwrap();
    let loss = |auxiliary: Option<Tensor>| {
        let auxiliary = auxiliary.map(|value| ("energy".to_owned(), Var::constant(value))).into_iter().collect();
        flow.loss(&Tape::new(), &step, &Var::constant(full(0.25, &LATENTS)), None, auxiliary, true)
    };
    let (without, with) = (loss(None).unwrap().metrics.loss, loss(Some(full(0.5, &[1]))).unwrap().metrics);
    assert!((with.loss - without - 0.5).abs() < 1e-5);
    assert_eq!(with.auxiliary, [("energy".to_owned(), 0.5)]);
    let error = loss(Some(full(0.5, &[2]))).unwrap_err();
    assert!(error.code() == "SHAPE_MISMATCH" && error.to_string().contains("energy"), "{error}");
    assert!(matches!(loss(Some(full(f32::NAN, &[]))).unwrap_err(), Error::LossDiverged { .. }));
}
