//! One suite for every device: what has no gradient, and what is computed in bfloat16, against the CPU's kernels. Devices that
//! this build or machine does not have are named aloud. (What has a gradient is checked in float64 where the operations are.)

use std::io::Write;

use flowtune_engine::ops::conv::{Padding, conv2d};
use flowtune_engine::ops::linear::LowRank;
use flowtune_engine::ops::rope::RopeTable;
use flowtune_engine::ops::{
    causal_attention, embedding, group_norm, linear, loss, norm, optimizer, timestep, upsample,
};
use flowtune_engine::{DType, Device, Gradients, Result, Tape, Tensor, Var};

/// Largest difference, relative to the largest value: of float32 sums in another order, and of roundings to bfloat16 that
/// fall differently.
const F32: f64 = 1e-5;
const BF16: f64 = 1e-2;

/// Numbers in −1..1, the same on every run.
fn numbers(shape: &[usize], seed: usize) -> Tensor {
    let value = |i: usize| ((i * 2_654_435_761 + seed * 40_503) % 65_537) as f32 / 32_768.0 - 1.0;
    Tensor::from_vec((0..shape.iter().product()).map(value).collect(), shape).unwrap()
}

/// The devices that can be had here.
fn devices() -> Vec<Device> {
    vec![
        Device::composed(),
        #[cfg(feature = "emulate")]
        Device::emulated(),
        #[cfg(feature = "cuda")]
        Device::cuda(0).expect("a build for CUDA is tested where there is a card"),
    ]
}

#[test]
fn devices_that_are_left_out_are_named() {
    // Not by `println!`, which is kept from who runs tests that pass.
    let say = |text: String| writeln!(std::io::stderr(), "{text}").unwrap();
    say(format!("devices: tested on {:?}", devices()));
    if cfg!(not(feature = "emulate")) {
        say("devices: NOT tested in the emulator of CUDA (`npm run check:cuda`)".to_owned());
    }
    if cfg!(not(feature = "cuda")) {
        say("devices: NOT tested on an NVIDIA card (feature `cuda`)".to_owned());
    }
    assert!(devices().iter().all(|device| !device.is_cpu()));
}

fn assert_same(what: &str, got: &Tensor, want: &Tensor, bound: f64) {
    assert_eq!((got.shape(), got.dtype()), (want.shape(), want.dtype()), "{what}");
    let (got, want) = (got.to_f32_vec().unwrap(), want.to_f32_vec().unwrap());
    let scale = want.iter().fold(0f32, |m, x| m.max(x.abs()));
    let worst = got.iter().zip(&want).map(|(a, b)| (a - b).abs()).fold(0f32, f32::max);
    assert!(f64::from(worst) <= bound * f64::from(scale), "{what}: off by {worst:e} of {scale:e}");
}

/// A function of tensors here, and there.
fn check(what: &str, inputs: &[Tensor], f: impl Fn(&[Tensor]) -> Result<Tensor>) {
    let want = f(inputs).unwrap();
    for device in devices() {
        let inputs: Vec<Tensor> = inputs.iter().map(|x| x.to_device(&device).unwrap()).collect();
        let got = f(&inputs).unwrap();
        assert_eq!(got.device(), device, "{what}");
        assert_same(&format!("{what} on {device:?}"), &got, &want, F32);
    }
}

#[test]
fn tensors_come_back_as_they_went() {
    devices().iter().for_each(come_and_go);
}

fn come_and_go(device: &Device) {
    let there = |x: &Tensor| x.to_device(device).unwrap();
    let x = numbers(&[3, 5], 1);
    for dtype in [DType::F32, DType::BF16, DType::F16, DType::F64] {
        let here = x.to_dtype(dtype).unwrap();
        let back = there(&here).to_device(&Device::cpu()).unwrap();
        assert_eq!((back.dtype(), back.device()), (dtype, Device::cpu()));
        assert_eq!(back.to_f32_vec().unwrap(), here.to_f32_vec().unwrap());
        assert_eq!(there(&x).to_dtype(dtype).unwrap().to_f32_vec().unwrap(), here.to_f32_vec().unwrap());
    }
    let ids = Tensor::from_vec(vec![1i64, -2], &[2]).unwrap();
    assert_eq!(there(&ids).to_device(&Device::cpu()).unwrap().as_slice::<i64>().unwrap(), [1, -2]);
    assert_same("rows", &there(&x).rows(1, 2).unwrap(), &x.rows(1, 2).unwrap(), 0.0);
    let twice = [x.clone(), x.clone()];
    assert_same(
        "cat",
        &Tensor::cat_rows(&twice.each_ref().map(there)).unwrap(),
        &Tensor::cat_rows(&twice).unwrap(),
        0.0,
    );
    assert_eq!(there(&x).as_slice::<f32>().unwrap_err().code(), "DEVICE_UNAVAILABLE");
}

#[test]
fn operands_here_and_there_are_refused() {
    let there = |x: &Tensor| x.to_device(&Device::composed()).unwrap();
    let (x, gate) = (numbers(&[1, 2, 3], 1), numbers(&[1, 3], 2));
    let [x, gate, y] = [Var::constant(there(&x)), Var::constant(gate), Var::constant(there(&x))];
    let error = Tape::inference().gated_residual(&x, &gate, &y).unwrap_err();
    assert_eq!(error.code(), "DEVICE_UNAVAILABLE", "{error}");
}

#[test]
fn what_encoders_and_vae_need() {
    let [image, kernel, bias] = [numbers(&[2, 6, 5, 7], 1), numbers(&[4, 6, 3, 3], 2), numbers(&[4], 3)];
    let around = Padding { top: 1, bottom: 0, left: 2, right: 1 };
    check("conv2d", &[image.clone(), kernel.clone(), bias], |t| conv2d(&t[0], &t[1], Some(&t[2]), None, 2, around));
    check("conv2d, residual", &[image.clone(), kernel, numbers(&[2, 4, 5, 7], 4)], |t| {
        conv2d(&t[0], &t[1], None, Some(&t[2]), 1, Padding::all(1))
    });
    let affine = [image.clone(), numbers(&[6], 5), numbers(&[6], 6)];
    check("group_norm", &affine, |t| group_norm::group_norm(&t[0], &t[1], &t[2], 3, 1e-6));
    check("group_norm_silu", &affine, |t| group_norm::group_norm_silu(&t[0], &t[1], &t[2], 2, 1e-6));
    check("upsample", &[image], |t| upsample::upsample_nearest_2x(&t[0]));
    check("rms_norm", &[numbers(&[2, 3, 19], 1), numbers(&[19], 2)], |t| norm::rms_norm(&t[0], &t[1], 1e-6));
    let layer = [numbers(&[2, 3, 5], 1), numbers(&[7, 5], 2), numbers(&[7], 3)];
    check("linear_bias", &layer, |t| linear::linear_bias(&t[0], &t[1], Some(&t[2])));
    let ids = Tensor::from_vec(vec![3i64, 0, 1], &[1, 3]).unwrap();
    check("embedding", &[numbers(&[4, 5], 1)], |t| embedding::embedding(&ids, &t[0]));
    let steps = Tensor::from_vec(vec![0.5f32, 700.0], &[2]).unwrap();
    check("timestep_embedding", &[steps], |t| timestep::timestep_embedding(&t[0], 256));
    let latents = [numbers(&[2, 3, 4], 1), numbers(&[2, 3, 4], 2), numbers(&[2], 3)];
    check("interpolate", &latents, |t| loss::interpolate(&t[0], &t[1], &t[2]));
}

#[test]
fn what_shares_a_moment_keeps_its_numbers() {
    let options = optimizer::AdamW { lr: 1e-2, beta1: 0.9, beta2: 0.99, eps: 1e-8, weight_decay: 0.1 };
    for device in devices() {
        let there = |seed| numbers(&[4, 5], seed).to_device(&device).unwrap();
        let (mut weight, mut first, mut second) = (there(1), there(2), Tensor::zeros(&[4, 5], DType::F32));
        second = second.to_device(&device).unwrap();
        let (before, shared) =
            ([weight.to_f32_vec().unwrap(), first.to_f32_vec().unwrap()], [weight.clone(), first.clone()]);
        optimizer::adamw_step(&mut weight, &there(3), &mut first, &mut second, 1, options).unwrap();
        assert_eq!(shared.map(|x| x.to_f32_vec().unwrap()), before, "{device:?}");
        assert_ne!(first.to_f32_vec().unwrap(), before[1], "{device:?}");
        assert!(second.to_f32_vec().unwrap().iter().all(|&x| x > 0.0), "{device:?}");
    }
}

#[test]
fn weights_in_fewer_bits_come_back_and_are_multiplied_as_their_numbers() {
    for kind in [DType::I8, DType::Nf4] {
        // Blocks of nf4 go through the rows.
        let weight = numbers(&[7, 32], 1).to_dtype(kind).unwrap();
        let numbers_of = weight.to_dtype(DType::F32).unwrap();
        for device in devices() {
            let there = weight.to_device(&device).unwrap();
            assert_eq!((there.dtype(), there.device(), there.shape()), (kind, device.clone(), weight.shape()));
            let back = there.to_device(&Device::cpu()).unwrap();
            assert_eq!((back.dtype(), back.device()), (kind, Device::cpu()));
            for dtype in [DType::F32, DType::BF16, DType::F64] {
                let want = numbers_of.to_dtype(dtype).unwrap().to_f32_vec().unwrap();
                assert_eq!(there.to_dtype(dtype).unwrap().to_f32_vec().unwrap(), want, "{device:?} {dtype:?}");
                assert_eq!(back.to_dtype(dtype).unwrap().to_f32_vec().unwrap(), want, "{device:?} {dtype:?}");
            }
            for (dtype, bound) in [(DType::F32, F32), (DType::BF16, BF16)] {
                let want = layer_over(&numbers_of.to_dtype(dtype).unwrap(), dtype);
                for (i, (got, want)) in layer_over(&there, dtype).iter().zip(&want).enumerate() {
                    assert_same(&format!("{kind:?} on {device:?}, {i}"), got, want, bound);
                }
            }
        }
    }
}

/// Value and gradients of a layer over a frozen weight `[7, 32]`, with a low-rank addition.
fn layer_over(weight: &Tensor, dtype: DType) -> Vec<Tensor> {
    let inputs = [numbers(&[2, 3, 32], 2).to_dtype(dtype).unwrap(), numbers(&[2, 32], 3), numbers(&[7, 2], 4)];
    let frozen = Var::constant(weight.clone());
    let layer = |t: &Tape, v: &[Var]| t.linear(&v[0], &frozen, Some(LowRank { a: &v[1], b: &v[2], scale: 0.5 }));
    run(&layer, &inputs.map(|x| x.to_device(&weight.device()).unwrap()))
}

#[test]
fn attention_with_a_mask_and_fewer_heads_of_keys() {
    let heads = [numbers(&[2, 9, 4, 8], 1), numbers(&[2, 9, 2, 8], 2), numbers(&[2, 9, 2, 8], 3)];
    // The first token of a sample that is padded on the left sees nothing.
    let mask = Tensor::from_vec((0..18).map(|i| i64::from(i >= 3)).collect(), &[2, 9]).unwrap();
    check("causal", &heads, |t| causal_attention::causal_attention(&t[0], &t[1], &t[2], None));
    check("padded", &heads, |t| causal_attention::causal_attention(&t[0], &t[1], &t[2], Some(&mask)));
    check("rope of halves", &heads, |t| {
        let table = causal_attention::rope_table(9, 8, 1e4).to_device(&t[0].device())?;
        causal_attention::rope_half_split(&t[0], &table)
    });
    check("full", &heads, |t| causal_attention::full_attention(&t[0], &t[1], &t[2]));
}

#[test]
fn optimizers() {
    let options = optimizer::AdamW { lr: 1e-2, beta1: 0.9, beta2: 0.99, eps: 1e-8, weight_decay: 0.1 };
    let start = [numbers(&[4, 5], 1), numbers(&[4, 5], 2), numbers(&[4, 5], 3)];
    let walk = |mut t: [Tensor; 3], gradient: Tensor| {
        let [weight, first, second] = &mut t;
        second.clone_from(&Tensor::zeros(&[4, 5], DType::F32).to_device(&first.device()).unwrap());
        for step in 1..4 {
            optimizer::adamw_step(weight, &gradient, first, second, step, options).unwrap();
        }
        optimizer::scale_in_place(first, 0.5).unwrap();
        t
    };
    let gradient = numbers(&[4, 5], 4);
    let here = walk(start.clone(), gradient.clone());
    for device in devices() {
        let there = |x: &Tensor| x.to_device(&device).unwrap();
        let moved = walk(start.each_ref().map(there), there(&gradient));
        for (got, want) in moved.iter().zip(&here) {
            assert_same(&format!("adamw {device:?}"), got, want, F32);
        }
        let (one, two) = (there(&gradient), there(&start[0]));
        let got = optimizer::sum_of_squares(&[&one, &two]).unwrap();
        let want = optimizer::sum_of_squares(&[&gradient, &start[0]]).unwrap();
        assert!((got / want - 1.0).abs() < 1e-12);
    }
}

/// Value and gradients of an operation on values of which those in `narrow` are bfloat16.
fn run(op: &dyn Fn(&Tape, &[Var]) -> Result<Var>, inputs: &[Tensor]) -> Vec<Tensor> {
    let tape = Tape::new();
    let vars: Vec<Var> = inputs.iter().map(|x| tape.leaf(x.clone())).collect();
    let y = op(&tape, &vars).unwrap();
    let seed = numbers(y.tensor().shape(), 9).to_dtype(y.tensor().dtype()).unwrap();
    let seed = seed.to_device(&y.tensor().device()).unwrap();
    let leaves: Vec<&Var> = vars.iter().collect();
    let gradients = tape.backward(&y, seed, &leaves, &mut Gradients::new()).unwrap();
    std::iter::once(y.tensor().clone()).chain(gradients.into_iter().flatten()).collect()
}

fn in_bf16(what: &str, shapes: &[&[usize]], narrow: &[usize], op: impl Fn(&Tape, &[Var]) -> Result<Var>) {
    let of = |(i, shape): (usize, &&[usize])| match narrow.contains(&i) {
        true => numbers(shape, i).to_dtype(DType::BF16).unwrap(),
        false => numbers(shape, i),
    };
    let inputs: Vec<Tensor> = shapes.iter().enumerate().map(of).collect();
    let want = run(&op, &inputs);
    for device in devices() {
        let got = run(&op, &inputs.iter().map(|x| x.to_device(&device).unwrap()).collect::<Vec<_>>());
        assert_eq!(got.len(), inputs.len() + 1, "{what}");
        for (i, (got, want)) in got.iter().zip(&want).enumerate() {
            assert_eq!(got.device(), device, "{what}, {i}");
            assert_same(&format!("{what} on {device:?}, {i}"), got, want, BF16);
        }
    }
}

#[test]
fn bfloat16_has_the_types_and_nearly_the_values_of_the_cpu() {
    in_bf16("linear", &[&[2, 3, 32], &[7, 32]], &[0, 1], |t, v| t.linear(&v[0], &v[1], None));
    in_bf16("linear, master weight", &[&[2, 3, 32], &[7, 32]], &[0], |t, v| t.linear(&v[0], &v[1], None));
    in_bf16("linear_wide", &[&[2, 3, 32], &[7, 32]], &[0, 1], |t, v| t.linear_wide(&v[0], &v[1], None));
    let low_rank = |t: &Tape, v: &[Var]| t.linear(&v[0], &v[1], Some(LowRank { a: &v[2], b: &v[3], scale: 1.5 }));
    in_bf16("low rank", &[&[6, 32], &[7, 32], &[2, 32], &[7, 2]], &[0, 1], low_rank);
    in_bf16("attention", &[&[2, 5, 2, 8], &[2, 9, 2, 8], &[2, 9, 2, 8]], &[0, 1, 2], |t, v| {
        t.attention(&v[0], &v[1], &v[2])
    });
    in_bf16("swiglu", &[&[2, 3, 10]], &[0], |t, v| t.swiglu(&v[0]));
    in_bf16("gated_residual", &[&[2, 3, 5], &[2, 5], &[2, 3, 5]], &[2], |t, v| t.gated_residual(&v[0], &v[1], &v[2]));
    in_bf16("layer_norm_modulate", &[&[2, 3, 19], &[2, 19], &[2, 19]], &[], |t, v| {
        t.layer_norm_modulate(&v[0], &v[1], &v[2], 1e-6, DType::BF16)
    });
    let angles = numbers(&[1, 3, 4], 7);
    let of = |f: fn(f32) -> f32| {
        Tensor::from_vec(angles.as_slice::<f32>().unwrap().iter().map(|&a| f(a)).collect(), &[1, 3, 4]).unwrap()
    };
    let (cos, sin) = (of(f32::cos), of(f32::sin));
    in_bf16("rms_norm_rope", &[&[2, 3, 2, 8], &[8]], &[0], |t, v| {
        let device = v[0].tensor().device();
        let table = RopeTable { cos: cos.to_device(&device)?, sin: sin.to_device(&device)? };
        t.rms_norm_rope(&v[0], &v[1], 1e-6, &table)
    });
}
