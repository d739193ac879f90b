//! Every differentiable operation against finite differences and against candle's autograd, both in f64, and composed of
//! candle's operations, as on a device, against itself.

use candle_core::{Device as Place, Result as CandleResult, Tensor as Twin, Var as TwinVar};

use crate::ops::linear::{LowRank, Part};
use crate::ops::rope::RopeTable;
use crate::{Device, Gradients, Result, Tape, Tensor, Var};

/// Bound on value and gradient against candle, relative to the largest element.
const TWIN: f64 = 1e-10;
/// Bound on a central difference with step [`H`], relative to the largest gradient.
const DIFFERENCE: f64 = 1e-6;
const H: f64 = 1e-5;

/// Numbers in −1..1 that look random and are the same on every run.
fn numbers(count: usize, seed: u64) -> Vec<f64> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 11) as f64 / (1u64 << 52) as f64 - 1.0
    };
    (0..count).map(|_| next()).collect()
}

fn tensor(shape: &[usize], seed: u64) -> Tensor {
    Tensor::new(numbers(shape.iter().product(), seed), shape)
}

fn twin(t: &Tensor) -> Twin {
    Twin::from_slice(t.as_slice::<f64>().unwrap(), t.shape(), &Place::Cpu).unwrap()
}

fn flat(t: &Twin) -> Vec<f64> {
    t.flatten_all().unwrap().to_vec1().unwrap()
}

fn assert_close(what: &str, got: &[f64], want: &[f64], bound: f64) {
    assert_eq!(got.len(), want.len(), "{what}");
    let scale = want.iter().fold(1e-300, |m: f64, x| m.max(x.abs()));
    let worst = got.iter().zip(want).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
    assert!(worst <= bound * scale, "{what}: off by {worst:.3e}, largest value {scale:.3e}");
}

/// Value and gradients of `op` at `inputs`, those in `frozen` as constants.
fn run(
    op: &dyn Fn(&Tape, &[Var]) -> Result<Var>,
    inputs: &[Tensor],
    frozen: &[usize],
    seed: &Tensor,
) -> (Tensor, Vec<Option<Tensor>>) {
    let tape = Tape::new();
    let make = |(i, t): (usize, &Tensor)| match frozen.contains(&i) {
        true => Var::constant(t.clone()),
        false => tape.leaf(t.clone()),
    };
    let vars: Vec<Var> = inputs.iter().enumerate().map(make).collect();
    let y = op(&tape, &vars).unwrap();
    let value = y.tensor().clone();
    let leaves: Vec<&Var> = vars.iter().collect();
    let gradients = tape.backward(&y, seed.clone(), &leaves, &mut Gradients::new()).unwrap();
    (value, gradients)
}

/// Checks `op` at inputs of `shapes` against `reference` and against differences, and that frozen inputs get no
/// gradient while the others' do not change.
fn check(
    name: &str,
    shapes: &[&[usize]],
    op: impl Fn(&Tape, &[Var]) -> Result<Var>,
    reference: impl Fn(&[Twin]) -> CandleResult<Twin>,
) {
    let inputs: Vec<Tensor> = shapes.iter().enumerate().map(|(i, s)| tensor(s, i as u64 + 1)).collect();
    let constants: Vec<Var> = inputs.iter().cloned().map(Var::constant).collect();
    let shape = op(&Tape::inference(), &constants).unwrap().tensor().shape().to_vec();
    let seed = tensor(&shape, 99);
    let (value, gradients) = run(&op, &inputs, &[], &seed);
    on_a_device(name, &op, &inputs, &seed, (&value, &gradients));
    let vars: Vec<TwinVar> = inputs.iter().map(|t| TwinVar::from_tensor(&twin(t)).unwrap()).collect();
    let twins: Vec<Twin> = vars.iter().map(|v| v.as_tensor().clone()).collect();
    let want = reference(&twins).unwrap();
    assert_close(&format!("{name}: value"), value.as_slice().unwrap(), &flat(&want), TWIN);
    let scalar = (want * twin(&seed)).unwrap().sum_all().unwrap();
    let store = scalar.backward().unwrap();
    for (i, gradient) in gradients.iter().enumerate() {
        let gradient = gradient.as_ref().unwrap_or_else(|| panic!("{name}: input {i} has no gradient"));
        let got = gradient.as_slice::<f64>().unwrap();
        assert_close(&format!("{name}: gradient {i} against candle"), got, &flat(store.get(&vars[i]).unwrap()), TWIN);
        let numeric = differences(&op, &inputs, i, &seed);
        assert_close(&format!("{name}: gradient {i} against differences"), got, &numeric, DIFFERENCE);
        frozen_input(name, &op, &inputs, i, &seed, &gradients);
    }
}

/// Value and gradients where the inputs are on a device, against those of the CPU.
fn on_a_device(
    name: &str,
    op: &dyn Fn(&Tape, &[Var]) -> Result<Var>,
    inputs: &[Tensor],
    seed: &Tensor,
    (value, gradients): (&Tensor, &[Option<Tensor>]),
) {
    let device = Device::composed();
    let inputs: Vec<Tensor> = inputs.iter().map(|input| input.to_device(&device).unwrap()).collect();
    let constants: Vec<Var> = inputs.iter().cloned().map(Var::constant).collect();
    // A loss is a number of the host.
    let seed = seed.to_device(&op(&Tape::inference(), &constants).unwrap().tensor().device()).unwrap();
    let (got, got_gradients) = run(op, &inputs, &[], &seed);
    let same = |what: String, got: &Tensor, want: &Tensor| {
        assert_eq!(got.shape(), want.shape(), "{what}");
        let got = got.to_device(&Device::cpu()).unwrap();
        assert_close(&what, got.as_slice().unwrap(), want.as_slice().unwrap(), TWIN);
    };
    same(format!("{name}: value on a device"), &got, value);
    for (i, (got, want)) in got_gradients.iter().zip(gradients).enumerate() {
        let (got, want) = (got.as_ref().unwrap(), want.as_ref().unwrap());
        assert_eq!(got.device(), device, "{name}: gradient {i}");
        same(format!("{name}: gradient {i} on a device"), got, want);
    }
}

/// `t` where x is.
fn beside(x: &Var, t: &Tensor) -> Tensor {
    t.to_device(&x.tensor().device()).unwrap()
}

fn differences(op: &dyn Fn(&Tape, &[Var]) -> Result<Var>, inputs: &[Tensor], i: usize, seed: &Tensor) -> Vec<f64> {
    let at = |j: usize, h: f64| {
        let mut moved = inputs.to_vec();
        moved[i].as_mut_slice::<f64>().unwrap()[j] += h;
        let constants: Vec<Var> = moved.into_iter().map(Var::constant).collect();
        let y = op(&Tape::inference(), &constants).unwrap();
        let y = y.tensor().as_slice::<f64>().unwrap();
        y.iter().zip(seed.as_slice::<f64>().unwrap()).map(|(y, s)| y * s).sum::<f64>()
    };
    (0..inputs[i].len()).map(|j| (at(j, H) - at(j, -H)) / (2.0 * H)).collect()
}

fn frozen_input(
    name: &str,
    op: &dyn Fn(&Tape, &[Var]) -> Result<Var>,
    inputs: &[Tensor],
    frozen: usize,
    seed: &Tensor,
    all: &[Option<Tensor>],
) {
    if inputs.len() == 1 {
        return;
    }
    let (_, gradients) = run(op, inputs, &[frozen], seed);
    for (i, gradient) in gradients.iter().enumerate() {
        match gradient {
            None => assert_eq!(i, frozen, "{name}: input {i} lost its gradient when {frozen} was frozen"),
            Some(g) => {
                assert_ne!(i, frozen, "{name}: frozen input {i} has a gradient");
                let want = all[i].as_ref().unwrap().as_slice::<f64>().unwrap();
                assert_close(&format!("{name}: gradient {i} with {frozen} frozen"), g.as_slice().unwrap(), want, TWIN);
            }
        }
    }
}

#[test]
fn scale_silu() {
    check("scale", &[&[3, 5]], |t, v| t.scale(&v[0], -1.7), |v| &v[0] * -1.7);
    check("silu", &[&[3, 37]], |t, v| t.silu(&v[0]), |v| v[0].silu());
}

#[test]
fn arithmetic_broadcasts() {
    // Same shape, a scalar, one number per sample, the last dimension, both sides repeated, a new dimension in front.
    let pairs: [[&[usize]; 2]; 6] = [
        [&[3, 5], &[3, 5]],
        [&[2, 3, 4], &[]],
        [&[2, 3, 4], &[2, 1, 1]],
        [&[2, 3, 4], &[4]],
        [&[3, 1, 4], &[1, 5, 1]],
        [&[4], &[2, 3, 1]],
    ];
    for shapes in pairs {
        check("add", &shapes, |t, v| t.add(&v[0], &v[1]), |v| v[0].broadcast_add(&v[1]));
        check("sub", &shapes, |t, v| t.sub(&v[0], &v[1]), |v| v[0].broadcast_sub(&v[1]));
        check("mul", &shapes, |t, v| t.mul(&v[0], &v[1]), |v| v[0].broadcast_mul(&v[1]));
        let away = |t: &Tape, x: &Var| t.add_scalar(&t.square(x)?, 0.5);
        let op = |t: &Tape, v: &[Var]| t.div(&v[0], &away(t, &v[1])?);
        check("div", &shapes, op, |v| v[0].broadcast_div(&(v[1].sqr()? + 0.5)?));
    }
    check("broadcast_to", &[&[3, 1]], |t, v| t.broadcast_to(&v[0], &[2, 3, 4]), |v| v[0].broadcast_as((2, 3, 4)));
}

#[test]
fn functions_of_one_value() {
    let positive = |t: &Tape, x: &Var| t.add_scalar(&t.square(x)?, 0.5);
    let twin_positive = |x: &Twin| x.sqr()? + 0.5;
    check("neg", &[&[3, 5]], |t, v| t.neg(&v[0]), |v| v[0].neg());
    check("add_scalar", &[&[3, 5]], |t, v| t.add_scalar(&v[0], 0.3), |v| &v[0] + 0.3);
    check("div_scalar", &[&[3, 5]], |t, v| t.div_scalar(&v[0], -3.0), |v| &v[0] / -3.0);
    check("square", &[&[3, 5]], |t, v| t.square(&v[0]), |v| v[0].sqr());
    check("abs", &[&[3, 5]], |t, v| t.abs(&v[0]), |v| v[0].abs());
    check("sqrt", &[&[3, 5]], |t, v| t.sqrt(&positive(t, &v[0])?), |v| twin_positive(&v[0])?.sqrt());
    check("log", &[&[3, 5]], |t, v| t.log(&positive(t, &v[0])?), |v| twin_positive(&v[0])?.log());
    check("pow", &[&[3, 5]], |t, v| t.pow(&positive(t, &v[0])?, 1.7), |v| twin_positive(&v[0])?.powf(1.7));
    check("exp", &[&[3, 5]], |t, v| t.exp(&v[0]), |v| v[0].exp());
    check("tanh", &[&[3, 5]], |t, v| t.tanh(&v[0]), |v| v[0].tanh());
    check("sigmoid", &[&[3, 5]], |t, v| t.sigmoid(&v[0]), |v| (v[0].neg()?.exp()? + 1.0)?.recip());
    // candle passes the gradient on outside of the bounds, so the reference is made of a step.
    check(
        "clamp",
        &[&[3, 5]],
        |t, v| t.clamp(&v[0], -0.5, 0.25),
        |v| {
            let (low, high) = (v[0].lt(-0.5)?.to_dtype(v[0].dtype())?, v[0].gt(0.25)?.to_dtype(v[0].dtype())?);
            let inside = ((low.neg()? - &high)? + 1.0)?;
            (v[0].mul(&inside)? + (low * -0.5)?)? + (high * 0.25)?
        },
    );
}

#[test]
fn sums_and_means() {
    let x: &[&[usize]] = &[&[2, 3, 4]];
    check("sum of all", x, |t, v| t.sum(&v[0], &[0, 1, 2], false), |v| v[0].sum_all());
    check("sum", x, |t, v| t.sum(&v[0], &[1], false), |v| v[0].sum(1));
    check("sum, kept", x, |t, v| t.sum(&v[0], &[0, 2], true), |v| v[0].sum_keepdim((0, 2)));
    check("mean of all", x, |t, v| t.mean(&v[0], &[0, 1, 2], false), |v| v[0].mean_all());
    check("mean", x, |t, v| t.mean(&v[0], &[2], false), |v| v[0].mean(2));
}

#[test]
fn matmul() {
    check("matmul", &[&[3, 4], &[4, 5]], |t, v| t.matmul(&v[0], &v[1]), |v| v[0].matmul(&v[1]));
    check("batched", &[&[2, 3, 4], &[2, 4, 5]], |t, v| t.matmul(&v[0], &v[1]), |v| v[0].matmul(&v[1]));
    let flat = |v: &[Twin]| v[0].reshape((6, 4))?.matmul(&v[1])?.reshape((2, 3, 5));
    check("one right side", &[&[2, 3, 4], &[4, 5]], |t, v| t.matmul(&v[0], &v[1]), flat);
}

#[test]
fn linear() {
    let reference = |v: &[Twin]| v[0].flatten_to(1)?.matmul(&v[1].t()?)?.reshape((2, 3, 7));
    check("linear", &[&[2, 3, 5], &[7, 5]], |t, v| t.linear(&v[0], &v[1], None), reference);
}

#[test]
fn linear_with_low_rank() {
    let op = |t: &Tape, v: &[Var]| t.linear(&v[0], &v[1], Some(LowRank { a: &v[2], b: &v[3], scale: 1.5 }));
    check("low rank", &[&[6, 5], &[7, 5], &[2, 5], &[7, 2]], op, |v| {
        let low = v[0].matmul(&v[2].t()?)?.matmul(&v[3].t()?)?;
        v[0].matmul(&v[1].t()?)? + (low * 1.5)?
    });
}

/// Two inputs side by side, and of seven outputs the first three, one, and the last two, those of two tokens.
#[test]
fn linear_parts() {
    let parts = [
        Part { outputs: 0..3, tokens: 0..4 },
        Part { outputs: 4..5, tokens: 1..4 },
        Part { outputs: 5..7, tokens: 1..3 },
    ];
    // All of them, and one that leaves the others without a gradient.
    for used in [0..3, 2..3] {
        let op = |t: &Tape, v: &[Var]| {
            let low_rank = LowRank { a: &v[3], b: &v[4], scale: 1.5 };
            let made = t.linear_parts(&[&v[0], &v[1]], &v[2], Some(low_rank), &parts)?;
            let flat = made[used.clone()].iter().map(|part| t.reshape(part, &[1, part.tensor().len()]));
            let flat = flat.collect::<Result<Vec<_>>>()?;
            t.cat_last(&flat.iter().collect::<Vec<_>>())
        };
        check("linear_parts", &[&[2, 4, 2], &[2, 4, 3], &[7, 5], &[2, 5], &[7, 2]], op, |v| {
            let x = Twin::cat(&v[..2], 2)?.flatten_to(1)?;
            let low = x.matmul(&v[3].t()?)?.matmul(&v[4].t()?)?;
            let y = (x.matmul(&v[2].t()?)? + (low * 1.5)?)?.reshape((2, 4, 7))?;
            let of_part = |Part { outputs, tokens }: &Part| {
                let part = y.narrow(2, outputs.start, outputs.len())?.narrow(1, tokens.start, tokens.len())?;
                part.contiguous()?.reshape((1, ()))
            };
            Twin::cat(&parts[used.clone()].iter().map(of_part).collect::<CandleResult<Vec<_>>>()?, 1)
        });
    }
}

#[test]
fn layer_norm_modulate() {
    let op = |t: &Tape, v: &[Var]| t.layer_norm_modulate(&v[0], &v[1], &v[2], 1e-6, crate::DType::F64);
    check("layer_norm_modulate", &[&[2, 3, 19], &[2, 19], &[2, 19]], op, |v| {
        let centred = v[0].broadcast_sub(&v[0].mean_keepdim(2)?)?;
        let variance = centred.sqr()?.mean_keepdim(2)?;
        let normed = centred.broadcast_div(&(variance + 1e-6)?.sqrt()?)?;
        normed.broadcast_mul(&(v[1].unsqueeze(1)? + 1.0)?)?.broadcast_add(&v[2].unsqueeze(1)?)
    });
}

#[test]
fn attention() {
    // More queries than one chunk holds, and more elements than lines of cache turn at a time, in the second case.
    for (queries, keys, dim) in [(5, 7, 4), (131, 3, 16)] {
        let shapes: [&[usize]; 3] = [&[2, queries, 2, dim], &[2, keys, 2, dim], &[2, keys, 2, dim]];
        check(
            "attention",
            &shapes,
            |t, v| t.attention(&v[0], &v[1], &v[2]),
            |v| {
                let heads = |x: &Twin| x.transpose(1, 2)?.contiguous();
                let (q, k, v) = (heads(&v[0])?, heads(&v[1])?, heads(&v[2])?);
                let scores = (q.matmul(&k.t()?)? / (dim as f64).sqrt())?;
                let out = candle_nn::ops::softmax(&scores, 3)?.matmul(&v)?;
                out.transpose(1, 2)?.reshape((2, queries, 2 * dim))
            },
        );
    }
}

#[test]
fn rms_norm_rope() {
    let angles = numbers(3 * 2, 31);
    let of = |f: fn(f64) -> f64| Tensor::new(angles.iter().map(|&a| f(a)).collect(), &[1, 3, 2]);
    let table = RopeTable { cos: of(f64::cos), sin: of(f64::sin) };
    let (cos, sin) = (twin(&table.cos), twin(&table.sin));
    let op = |t: &Tape, v: &[Var]| {
        let table = RopeTable { cos: beside(&v[0], &table.cos), sin: beside(&v[0], &table.sin) };
        t.rms_norm_rope(&v[0], &v[1], 1e-6, &table)
    };
    check("rms_norm_rope", &[&[2, 3, 2, 4], &[4]], op, |v| {
        let normed = candle_nn::ops::rms_norm_slow(&v[0], &v[1], 1e-6)?;
        let heads = normed.transpose(1, 2)?.contiguous()?;
        candle_nn::rotary_emb::rope_i_slow(&heads, &cos.squeeze(0)?, &sin.squeeze(0)?)?.transpose(1, 2)
    });
}

#[test]
fn swiglu() {
    check("swiglu", &[&[2, 3, 10]], |t, v| t.swiglu(&v[0]), |v| v[0].narrow(2, 0, 5)?.silu()? * v[0].narrow(2, 5, 5)?);
}

#[test]
fn gated_residual() {
    let op = |t: &Tape, v: &[Var]| t.gated_residual(&v[0], &v[1], &v[2]);
    check("gated_residual", &[&[2, 3, 5], &[2, 5], &[2, 3, 5]], op, |v| {
        &v[0] + v[2].broadcast_mul(&v[1].unsqueeze(1)?)?
    });
}

#[test]
fn moves() {
    check("split_last", &[&[2, 3, 7]], |t, v| Ok(t.split_last(&v[0], &[2, 4, 1])?.remove(1)), |v| v[0].narrow(2, 2, 4));
    let parts = |t: &Tape, v: &[Var]| t.cat_last(&[&v[0], &v[1]]);
    check("cat_last", &[&[2, 3, 2], &[2, 3, 4]], parts, |v| Twin::cat(v, 2));
    let tokens = |t: &Tape, v: &[Var]| t.cat_tokens(&[&v[0], &v[1]]);
    check("cat_tokens", &[&[2, 3, 2, 2], &[2, 1, 2, 2]], tokens, |v| Twin::cat(v, 1));
    check(
        "split_tokens",
        &[&[2, 5, 3]],
        |t, v| Ok(t.split_tokens(&v[0], &[2, 3])?.remove(1)),
        |v| v[0].narrow(1, 2, 3),
    );
    let parts = |t: &Tape, v: &[Var]| t.cat(&[&v[0], &v[1]], 1);
    check("cat", &[&[2, 3, 4], &[2, 1, 4]], parts, |v| Twin::cat(v, 1));
    check("cat, first", &[&[2, 3], &[4, 3]], |t, v| t.cat(&[&v[0], &v[1]], 0), |v| Twin::cat(v, 0));
    check("narrow", &[&[2, 5, 3]], |t, v| t.narrow(&v[0], 1, 1, 3), |v| v[0].narrow(1, 1, 3));
    check("permute", &[&[2, 3, 4, 5]], |t, v| t.permute(&v[0], &[2, 0, 3, 1]), |v| v[0].permute((2, 0, 3, 1)));
    check("pack", &[&[2, 5, 2, 3]], |t, v| t.pack_latents(&v[0]), |v| v[0].reshape((2, 5, 6))?.transpose(1, 2));
    check("reshape", &[&[2, 6]], |t, v| t.reshape(&v[0], &[3, 4]), |v| v[0].reshape((3, 4)));
    check(
        "unpack",
        &[&[2, 6, 5]],
        |t, v| t.unpack_latents(&v[0], 2, 3),
        |v| v[0].transpose(1, 2)?.reshape((2, 5, 2, 3)),
    );
}

#[test]
fn weighted_mse() {
    let (target, weight) = (tensor(&[2, 3, 4], 21), tensor(&[2], 22));
    let mask = Tensor::new((0..24).map(|i| f64::from(i % 3 > 0)).collect(), &[2, 3, 4]);
    for mask in [None, Some(&mask)] {
        let op = |t: &Tape, v: &[Var]| {
            let [target, weight] = [&target, &weight].map(|x| beside(&v[0], x));
            let mask = mask.map(|mask| beside(&v[0], mask));
            Ok(t.weighted_mse(&v[0], &target, &weight, mask.as_ref())?.loss)
        };
        let counted = if mask.is_some() { 16.0 } else { 24.0 };
        check("weighted_mse", &[&[2, 3, 4]], op, |v| {
            let squares = (&v[0] - twin(&target))?.sqr()?.broadcast_mul(&twin(&weight).reshape((2, 1, 1))?)?;
            let squares = match mask {
                Some(mask) => (squares * twin(mask))?,
                None => squares,
            };
            squares.sum_all()? / counted
        });
    }
}

#[test]
fn weighted_mean() {
    let weight = tensor(&[2], 22);
    let mask = Tensor::new((0..24).map(|i| f64::from(i % 3 > 0)).collect(), &[2, 3, 4]);
    for mask in [None, Some(&mask)] {
        let op = |t: &Tape, v: &[Var]| {
            let (weight, mask) = (beside(&v[0], &weight), mask.map(|mask| beside(&v[0], mask)));
            Ok(t.weighted_mean(&v[0], &weight, mask.as_ref())?.loss)
        };
        let counted = if mask.is_some() { 16.0 } else { 24.0 };
        check("weighted_mean", &[&[2, 3, 4]], op, |v| {
            let weighted = v[0].broadcast_mul(&twin(&weight).reshape((2, 1, 1))?)?;
            let weighted = match mask {
                Some(mask) => (weighted * twin(mask))?,
                None => weighted,
            };
            weighted.sum_all()? / counted
        });
    }
}

#[test]
fn several_uses_of_a_value_add_up() {
    let op = |t: &Tape, v: &[Var]| {
        let parts = t.split_last(&v[0], &[2, 2])?;
        t.add(&t.silu(&parts[0])?, &t.add(&parts[1], &parts[0])?)
    };
    check("several uses", &[&[3, 4]], op, |v| {
        let (a, b) = (v[0].narrow(1, 0, 2)?, v[0].narrow(1, 2, 2)?);
        a.silu()? + (b + &a)?
    });
}
