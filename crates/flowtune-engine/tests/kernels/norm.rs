use half::bf16;

use super::fixture::{Padded, Sample, assert_close, dtype, numbers, reference, samples, tensor};
use flowtune_engine::kernels::{
    Emulated, Modulated, layer_norm_modulate, layer_norm_modulate_dx, layer_norm_modulation_gradient,
};

const EPS: f64 = 1e-6;

/// batch, tokens, dim: one of each, widths beside a warp and a block, tokens beside a chunk, and more chunks than a block has warps.
const EXTENTS: [[usize; 3]; 6] = [[1, 1, 1], [1, 1, 37], [2, 5, 64], [3, 67, 300], [2, 650, 3], [2, 3, 256]];

fn agrees<T: Sample>([batch, tokens, dim]: [usize; 3]) {
    let (on, extents) = (Emulated::new(), Modulated { batch, tokens, dim });
    let (all, per_sample) = ([batch, tokens, dim], [batch, dim]);
    let n = batch * tokens * dim;
    // Off centre, so that the variance is not the mean square.
    let x: Vec<f32> = numbers(n, 1).into_iter().map(|x| x * 2.0 + 0.7).collect();
    let (scale, shift, g) = (numbers(batch * dim, 2), numbers(batch * dim, 3), samples::<T>(n, 4));
    let inputs = [tensor(&x, &all), tensor(&scale, &per_sample), tensor(&shift, &per_sample)];
    let op = |tape: &flowtune_engine::Tape, v: &[flowtune_engine::Var]| {
        tape.layer_norm_modulate(&v[0], &v[1], &v[2], EPS, dtype::<T>())
    };
    let (want, gradients) = reference(op, &inputs, &tensor(&g, &all));

    let [x, scale, shift] = [&x, &scale, &shift].map(|data| Padded::of(data));
    let g = Padded::of(&g);
    let what = |part: &str| format!("{part} {} {all:?}", T::NAME);
    let mut out = Padded::<T>::empty(n);
    let (xs, scales) = (x.view(), scale.view());
    layer_norm_modulate(&on, &xs, &scales, &shift.view(), &mut out.view_mut(), extents, EPS as f32).unwrap();
    assert_close(&what("value"), out.read(), want.as_slice().unwrap());

    let mut dx = Padded::<f32>::empty(n);
    layer_norm_modulate_dx(&on, &xs, &scales, &g.view(), &mut dx.view_mut(), extents, EPS as f32).unwrap();
    assert_close(&what("dx"), dx.read(), gradients[0].as_slice().unwrap());

    let [mut dscale, mut dshift] = [(); 2].map(|()| Padded::<f32>::empty(batch * dim));
    let (scales, shifts) = (&mut dscale.view_mut(), &mut dshift.view_mut());
    layer_norm_modulation_gradient(&on, &xs, &g.view(), scales, shifts, extents, EPS as f32).unwrap();
    assert_close(&what("dscale"), dscale.read(), gradients[1].as_slice().unwrap());
    assert_close(&what("dshift"), dshift.read(), gradients[2].as_slice().unwrap());
}

#[test]
pub(super) fn values_and_gradients_are_the_operations() {
    for extents in EXTENTS {
        agrees::<f32>(extents);
        agrees::<bf16>(extents);
    }
}

#[test]
fn buffers_that_do_not_fit_are_refused() {
    let (on, extents) = (Emulated::new(), Modulated { batch: 1, tokens: 2, dim: 3 });
    let (x, short) = (Padded::of(&numbers(6, 1)), Padded::of(&numbers(2, 1)));
    let mut out = Padded::<f32>::empty(6);
    let error = layer_norm_modulate(&on, &x.view(), &x.view(), &short.view(), &mut out.view_mut(), extents, 0.0);
    let message = error.unwrap_err().to_string();
    assert_eq!(message, "layer_norm_modulate: scale must have shape [1, 3], but has [6]");
    let vast = Modulated { batch: usize::MAX, tokens: 2, dim: 3 };
    assert!(layer_norm_modulate(&on, &x.view(), &x.view(), &x.view(), &mut out.view_mut(), vast, 0.0).is_err());
}
