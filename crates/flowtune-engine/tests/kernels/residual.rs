use half::bf16;

use super::fixture::{Padded, Sample, assert_close, numbers, reference, samples, tensor};
use flowtune_engine::kernels::{Emulated, Modulated, gated_residual, gated_residual_dy, gated_residual_gate_gradient};

fn agrees<T: Sample>(all @ [batch, tokens, dim]: [usize; 3]) {
    let (on, extents, n) = (Emulated::new(), Modulated { batch, tokens, dim }, batch * tokens * dim);
    let (x, gate, y, g) = (numbers(n, 1), numbers(batch * dim, 2), samples::<T>(n, 3), numbers(n, 4));
    let inputs = [tensor(&x, &all), tensor(&gate, &[batch, dim]), tensor(&y, &all)];
    let (want, gradients) = reference(|tape, v| tape.gated_residual(&v[0], &v[1], &v[2]), &inputs, &tensor(&g, &all));

    let [x, gate, g] = [&x, &gate, &g].map(|data| Padded::of(data));
    let (gate, g, y) = (gate.view(), g.view(), Padded::of(&y));
    let what = |part: &str| format!("{part} {} {all:?}", T::NAME);
    let mut out = Padded::<f32>::empty(n);
    gated_residual(&on, &x.view(), &gate, &y.view(), &mut out.view_mut(), extents).unwrap();
    assert_close(&what("value"), out.read(), want.as_slice().unwrap());

    let mut dy = Padded::<T>::empty(n);
    gated_residual_dy(&on, &g, &gate, &mut dy.view_mut(), extents).unwrap();
    assert_close(&what("dy"), dy.read(), gradients[2].as_slice().unwrap());

    let mut dgate = Padded::<f32>::empty(batch * dim);
    gated_residual_gate_gradient(&on, &g, &y.view(), &mut dgate.view_mut(), extents).unwrap();
    assert_close(&what("dgate"), dgate.read(), gradients[1].as_slice().unwrap());
}

#[test]
pub(super) fn values_and_gradients_are_the_operations() {
    for extents in [[1, 1, 1], [1, 1, 37], [2, 64, 33], [3, 67, 300], [2, 650, 3]] {
        agrees::<f32>(extents);
        agrees::<bf16>(extents);
    }
}
