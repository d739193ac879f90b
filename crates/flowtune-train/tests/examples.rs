//! The examples of this crate, run.

use std::path::Path;

use flowtune_models::lora::load_lora;
use flowtune_models::transformer::Flux2Transformer;

#[path = "../examples/train_lora.rs"]
#[allow(dead_code)] // its `main`
mod train_lora;

#[test]
fn train_lora_leaves_a_lora_of_the_model() {
    let out = tempfile::tempdir().unwrap();
    let losses = train_lora::train(out.path()).unwrap();
    assert_eq!(losses.len(), 20);
    assert!(losses.iter().all(|loss| loss.is_finite()));
    let model = Flux2Transformer::open(
        &Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/flux2-tiny"),
        flowtune_models::Precision::FLOAT32,
    )
    .unwrap();
    let params = load_lora(&model, out.path()).unwrap();
    let trained = |p: &&flowtune_engine::Param| p.name().ends_with("lora_B.weight");
    assert!(params.iter().filter(trained).all(|p| p.value().to_f32_vec().unwrap().iter().any(|x| *x != 0.0)));
}
