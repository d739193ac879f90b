use half::bf16;

use super::fixture::{Padded, Sample, assert_close, numbers, reference, samples, tensor};
use flowtune_engine::kernels::{Emulated, RopeHeads, rms_norm_rope, rms_norm_rope_dw, rms_norm_rope_dx};
use flowtune_engine::ops::rope::RopeTable;

const EPS: f64 = 1e-6;

/// batch, tokens, heads, dim: one pair, pairs beside a warp, the model's width, rows beside a chunk.
const EXTENTS: [[usize; 4]; 5] = [[1, 1, 1, 2], [2, 5, 3, 16], [1, 7, 1, 70], [2, 3, 2, 128], [2, 60, 3, 10]];

fn agrees<T: Sample>(all @ [batch, tokens, heads, dim]: [usize; 4], shared: bool) {
    let (on, n) = (Emulated::new(), batch * tokens * heads * dim);
    let (x, g) = (samples::<T>(n, 1), samples::<T>(n, 2));
    let weight: Vec<f32> = numbers(dim, 3).into_iter().map(|w| 1.0 + w / 2.0).collect();
    let samples_with_angles = if shared { 1 } else { batch };
    let angles = numbers(samples_with_angles * tokens * dim / 2, 4);
    let [cos, sin] = [f32::cos, f32::sin].map(|f| angles.iter().map(|&angle| f(3.0 * angle)).collect::<Vec<_>>());
    let of_table = [samples_with_angles, tokens, dim / 2];
    let table = RopeTable { cos: tensor(&cos, &of_table), sin: tensor(&sin, &of_table) };
    let inputs = [tensor(&x, &all), tensor(&weight, &[dim])];
    let (want, gradients) =
        reference(|tape, v| tape.rms_norm_rope(&v[0], &v[1], EPS, &table), &inputs, &tensor(&g, &all));

    let (x, g) = (Padded::of(&x), Padded::of(&g));
    let [weight, cos, sin] = [&weight, &cos, &sin].map(|data| Padded::of(data));
    let (cos, sin, weight) = (cos.view(), sin.view(), weight.view());
    let of = RopeHeads { batch, tokens, heads, dim, cos: &cos, sin: &sin };
    let what = |part: &str| format!("{part} {} {all:?}, shared: {shared}", T::NAME);
    let mut out = Padded::<T>::empty(n);
    rms_norm_rope(&on, &x.view(), &weight, &mut out.view_mut(), &of, EPS as f32).unwrap();
    assert_close(&what("value"), out.read(), want.as_slice().unwrap());

    let mut dx = Padded::<T>::empty(n);
    rms_norm_rope_dx(&on, &x.view(), &weight, &g.view(), &mut dx.view_mut(), &of, EPS as f32).unwrap();
    assert_close(&what("dx"), dx.read(), gradients[0].as_slice().unwrap());

    let mut dw = Padded::<f32>::empty(dim);
    rms_norm_rope_dw(&on, &x.view(), &g.view(), &mut dw.view_mut(), &of, EPS as f32).unwrap();
    assert_close(&what("dw"), dw.read(), gradients[1].as_slice().unwrap());
}

#[test]
pub(super) fn values_and_gradients_are_the_operations() {
    for extents in EXTENTS {
        for shared in [true, false] {
            agrees::<f32>(extents, shared);
            agrees::<bf16>(extents, shared);
        }
    }
}

#[test]
fn odd_heads_are_refused() {
    let x = Padded::of(&numbers(3, 1));
    let (cos, mut out) = (x.view(), Padded::<f32>::empty(3));
    let of = RopeHeads { batch: 1, tokens: 1, heads: 1, dim: 3, cos: &cos, sin: &cos };
    assert!(rms_norm_rope(&Emulated::new(), &x.view(), &x.view(), &mut out.view_mut(), &of, 0.0).is_err());
}
