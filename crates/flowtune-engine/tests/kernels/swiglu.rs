use half::bf16;

use super::fixture::{Padded, Sample, assert_close, reference, samples, tensor};
use flowtune_engine::kernels::{Emulated, swiglu, swiglu_dx};

fn agrees<T: Sample>(rows: usize, dim: usize) {
    let (on, n) = (Emulated::new(), rows * dim);
    // Large enough that the sigmoid bends.
    let x: Vec<T> = samples::<T>(2 * n, 1).into_iter().map(|x| T::store(x.load() * 6.0)).collect();
    let g = samples::<T>(n, 2);
    let (want, gradients) =
        reference(|tape, v| tape.swiglu(&v[0]), &[tensor(&x, &[rows, 2 * dim])], &tensor(&g, &[rows, dim]));
    let (x, g, mut out, mut dx) = (Padded::of(&x), Padded::of(&g), Padded::empty(n), Padded::empty(2 * n));
    swiglu(&on, &x.view(), &mut out.view_mut(), rows, dim).unwrap();
    assert_close::<T>(&format!("value {} {rows}x{dim}", T::NAME), out.read(), want.as_slice().unwrap());
    swiglu_dx(&on, &x.view(), &g.view(), &mut dx.view_mut(), rows, dim).unwrap();
    assert_close::<T>(&format!("dx {} {rows}x{dim}", T::NAME), dx.read(), gradients[0].as_slice().unwrap());
}

#[test]
pub(super) fn values_and_gradients_are_the_operations() {
    for [rows, dim] in [[1, 1], [1, 600], [7, 33], [130, 31], [3, 256]] {
        agrees::<f32>(rows, dim);
        agrees::<bf16>(rows, dim);
    }
}

#[test]
fn nothing_is_nothing() {
    let mut out = Padded::<f32>::empty(0);
    swiglu(&Emulated::new(), &Padded::<f32>::empty(0).view(), &mut out.view_mut(), 0, 5).unwrap();
    assert!(out.read().is_empty());
}
