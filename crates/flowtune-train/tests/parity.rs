//! The parity cases of the Python reference, recomputed.

use std::path::{Path, PathBuf};

use flowtune_models::{ComputeDtype, Quantization};
use flowtune_train::Control;
use flowtune_train::verify::{CaseReport, DeviceKind, VerifyOptions, verify};

fn fixtures(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../__test__/fixtures/parity").join(name)
}

fn describe(case: &CaseReport) -> String {
    let off = case.tensors.iter().filter(|t| !t.ok).map(|t| format!("{} {:.2e}", t.name, t.error));
    format!("{}: {:?} {}", case.name, case.message, off.collect::<Vec<_>>().join(", "))
}

/// Every case, in float32.
fn every_case(device: DeviceKind) {
    let report = verify(in_float32(fixtures("cases"), device), &Control::default()).unwrap();
    for case in &report.cases {
        let worst = case.tensors.iter().map(|t| t.error / t.bound.max(1e-30)).fold(0.0, f64::max);
        println!("{:20} {:3} tensors, worst at {:.3} of its bound", case.name, case.tensors.len(), worst);
    }
    let failures: Vec<String> = report.cases.iter().filter(|c| !c.ok).map(describe).collect();
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    assert_eq!(report.cases.len(), 15);
}

fn in_float32(path: PathBuf, device: DeviceKind) -> VerifyOptions {
    VerifyOptions { paths: vec![path], dtype: ComputeDtype::Float32, quantization: Quantization::None, device }
}

#[test]
fn every_case_is_within_its_bounds() {
    every_case(DeviceKind::Preferred);
}

/// Every training case; bounds in `verify/case.rs`.
fn training_cases(dtype: ComputeDtype, quantization: Quantization, device: DeviceKind) {
    let options = VerifyOptions { paths: vec![fixtures("cases")], dtype, quantization, device };
    let report = verify(options, &Control::default()).unwrap();
    let failures: Vec<String> = report.cases.iter().filter(|c| !c.ok).map(describe).collect();
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    assert_eq!(report.cases.len(), 5);
}

#[test]
fn gradients_in_bfloat16_point_where_the_references_do() {
    training_cases(ComputeDtype::Bfloat16, Quantization::None, DeviceKind::Preferred);
}

#[test]
fn gradients_over_an_int8_base_point_where_the_references_do() {
    training_cases(ComputeDtype::Bfloat16, Quantization::Int8, DeviceKind::Preferred);
}

#[test]
fn losses_over_an_nf4_base_are_near_the_references() {
    training_cases(ComputeDtype::Bfloat16, Quantization::Nf4, DeviceKind::Preferred);
}

#[test]
fn what_is_composed_of_candles_operations_is_within_its_bounds() {
    every_case(DeviceKind::Composed);
    assert_eq!(whole_pipeline("pipeline", DeviceKind::Composed), 12);
    assert_eq!(whole_pipeline("edit", DeviceKind::Composed), 6);
    for quantization in [Quantization::None, Quantization::Int8, Quantization::Nf4] {
        training_cases(ComputeDtype::Bfloat16, quantization, DeviceKind::Composed);
    }
}

/// Without the whole pipelines and fewer bits, which take minutes.
#[cfg(feature = "emulate")]
#[test]
fn what_emulated_kernels_compute_is_within_its_bounds() {
    every_case(DeviceKind::Emulated);
    training_cases(ComputeDtype::Bfloat16, Quantization::None, DeviceKind::Emulated);
}

/// Everything of a model folder, and the number of tensors that were compared.
fn whole_pipeline(name: &str, device: DeviceKind) -> usize {
    let report = verify(in_float32(fixtures(name), device), &Control::default()).unwrap();
    assert!(report.ok, "{}", describe(&report.cases[0]));
    report.cases[0].tensors.len()
}

#[test]
fn the_whole_pipeline_is_within_its_bounds() {
    assert_eq!(whole_pipeline("pipeline", DeviceKind::Preferred), 12);
}

#[test]
fn an_image_made_from_references_is_within_its_bound() {
    assert_eq!(whole_pipeline("edit", DeviceKind::Preferred), 6);
}
