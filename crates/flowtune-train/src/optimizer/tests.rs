use super::*;

fn params() -> Vec<Param> {
    let tensor = |data: &[f32]| Tensor::from_vec(data.to_vec(), &[data.len()]).unwrap();
    vec![Param::trainable("w", tensor(&[0.5, -1.0, 2.0, 0.0])), Param::trainable("b", tensor(&[0.25]))]
}

fn optimizer() -> AdamW {
    AdamW::new(params(), OptimizerRecipe::default())
}

fn gradients(optimizer: &AdamW, w: [f32; 4], b: f32) -> Gradients {
    let mut gradients = Gradients::new();
    for (param, data) in optimizer.params().zip([w.to_vec(), vec![b]]) {
        let shape = [data.len()];
        gradients.accumulate(param.id(), Tensor::from_vec(data, &shape).unwrap()).unwrap();
    }
    gradients
}

const STEPS: [([f32; 4], f32); 3] =
    [([0.1, -0.2, 3.0, 0.0], 1.0), ([1e-4, 0.5, -3.0, 2.0], -2.0), ([-0.3, 0.05, 0.2, -0.1], 0.3)];

/// Clips to 1 and steps with rate 0.01·(i + 1); returns the norm.
fn take(optimizer: &mut AdamW, i: usize) -> f64 {
    let (w, b) = STEPS[i];
    let mut gradients = gradients(optimizer, w, b);
    let norm = optimizer.clip_gradients(&mut gradients, 1.0).unwrap();
    optimizer.step(&gradients, 0.01 * (i + 1) as f64).unwrap();
    norm
}

fn weights(optimizer: &AdamW) -> Vec<f32> {
    optimizer.params().flat_map(|p| p.value().to_f32_vec().unwrap()).collect()
}

/// PyTorch 2: `AdamW([w, b], betas=(.9, .999), eps=1e-8, weight_decay=.01)`, `clip_grad_norm_([w, b], 1.0)` and the
/// gradients of `STEPS`.
#[test]
fn three_steps_are_those_of_torch() {
    let expected = [
        (3.170_173_6, [0.489_95, -0.989_9, 1.989_8, 0.0, 0.239_975]),
        (4.153_311_7, [0.476_439_48, -0.996_667_74, 1.987_784_1, -0.014_882_736, 0.245_037_6]),
        (0.482_182_56, [0.493_731_44, -1.010_568_5, 1.982_160_3, -0.027_875_518, 0.241_357_01]),
    ];
    let mut optimizer = optimizer();
    for (i, (norm, values)) in expected.into_iter().enumerate() {
        let got = take(&mut optimizer, i);
        assert!((got - norm).abs() < 1e-6 * norm, "step {i}: norm {got}");
        for (got, want) in weights(&optimizer).iter().zip(values) {
            assert!((got - want as f32).abs() < 5e-7, "step {i}: {got} for {want}");
        }
    }
}

#[test]
fn a_restored_state_goes_on_bit_for_bit() {
    let mut whole = optimizer();
    let mut first = optimizer();
    for i in 0..3 {
        take(&mut whole, i);
    }
    for i in 0..2 {
        take(&mut first, i);
    }
    let mut second = optimizer();
    for (to, from) in second.params().zip(first.params()) {
        to.set(from.value());
    }
    let state: HashMap<_, _> = first.state().unwrap().into_iter().collect();
    second.load_state(&state, Path::new("optimizer.safetensors")).unwrap();
    assert_eq!(second.steps(), 2);
    take(&mut second, 2);
    assert_eq!(weights(&second), weights(&whole));
}

#[test]
fn a_foreign_state_is_refused_by_name() {
    let mut optimizer = optimizer();
    let good: HashMap<_, _> = optimizer.state().unwrap().into_iter().collect();
    let mut missing = good.clone();
    missing.remove("w.exp_avg_sq");
    let mut reshaped = good.clone();
    reshaped.insert("b.exp_avg".into(), Tensor::zeros(&[2], DType::F32));
    let mut more = good;
    more.insert("c.exp_avg".into(), Tensor::zeros(&[2], DType::F32));
    for (state, culprit) in [(missing, "w.exp_avg_sq"), (reshaped, "b.exp_avg must be"), (more, "6 tensors")] {
        let error = optimizer.load_state(&state, Path::new("optimizer.safetensors")).unwrap_err();
        assert_eq!(error.code(), "CHECKPOINT_LAYOUT");
        assert!(error.to_string().contains(culprit), "{error}");
        assert!(error.to_string().contains("optimizer.safetensors"), "{error}");
    }
}

#[test]
fn a_missing_gradient_is_an_error_and_touches_nothing() {
    let mut optimizer = optimizer();
    let before = weights(&optimizer);
    let mut only_w = Gradients::new();
    let w = optimizer.params().next().unwrap().id();
    only_w.accumulate(w, Tensor::full(1f32, &[4])).unwrap();
    let error = optimizer.step(&only_w, 0.1).unwrap_err();
    assert!(error.to_string().starts_with("b has no gradient"), "{error}");
    assert_eq!(weights(&optimizer), before);
}

#[test]
fn a_norm_below_the_limit_or_no_limit_leaves_the_gradients() {
    let optimizer = optimizer();
    for limit in [0.0, 10.0] {
        let mut gradients = gradients(&optimizer, [3.0, 0.0, 0.0, 0.0], 4.0);
        assert_eq!(optimizer.clip_gradients(&mut gradients, limit).unwrap(), 5.0);
        let w = optimizer.params().next().unwrap();
        assert_eq!(gradients.get(w).unwrap().to_f32_vec().unwrap()[0], 3.0);
    }
}
