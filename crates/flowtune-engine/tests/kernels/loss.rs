use super::fixture::{Padded, assert_close, numbers, tensor};
use flowtune_engine::kernels::{Emulated, weighted_mse, weighted_mse_dx};
use flowtune_engine::{Gradients, Tape, Tensor};

fn agrees(batch: usize, row: usize, masked: bool) {
    let (on, all, n) = (Emulated::new(), [batch, row], batch * row);
    let (prediction, target) = (numbers(n, 1), numbers(n, 2));
    let weight: Vec<f32> = numbers(batch, 3).into_iter().map(|w| 1.5 + w).collect();
    let mask: Option<Vec<f32>> =
        masked.then(|| (0..n).map(|i| if i % 3 == 1 { 0.0 } else { 0.25 * (1 + i % 4) as f32 }).collect());
    let tape = Tape::new();
    let leaf = tape.leaf(tensor(&prediction, &all));
    let mask_tensor = mask.as_ref().map(|mask| tensor(mask, &all));
    let target_tensor = tensor(&target, &all);
    let want = tape.weighted_mse(&leaf, &target_tensor, &tensor(&weight, &[batch]), mask_tensor.as_ref()).unwrap();
    let value = f64::from(want.loss.tensor().as_slice::<f32>().unwrap()[0]);
    let seed = Tensor::full(0.75f32, &[]);
    let gradient = tape.backward(&want.loss, seed, &[&leaf], &mut Gradients::new()).unwrap().remove(0).unwrap();

    let [prediction, target, weight] = [&prediction, &target, &weight].map(|data| Padded::of(data));
    let mask = mask.as_ref().map(|mask| Padded::of(mask));
    let mask = mask.as_ref().map(Padded::view);
    let (prediction, target, weight) = (prediction.view(), target.view(), weight.view());
    let mut out = Padded::<f64>::empty(3);
    weighted_mse(&on, &prediction, &target, &weight, mask.as_ref(), &mut out.view_mut(), all).unwrap();
    let what = format!("{all:?}, masked: {masked}");
    for (part, got, want) in [("loss", out.read()[0], value), ("unweighted", out.read()[1], want.unweighted)] {
        // The operation adds up a masked sample in float32, one element after the other.
        assert!((got - want).abs() <= 1e-5 * want, "{part} {what}: {got}, not {want}");
    }

    let (g, mut dx) = (Padded::of(&[0.75f32]), Padded::<f32>::empty(n));
    let (out, g) = (out.view(), g.view());
    let count = out.slice(2, 1).unwrap();
    weighted_mse_dx(&on, &prediction, &target, &weight, mask.as_ref(), &g, &count, &mut dx.view_mut(), all).unwrap();
    assert_close(&format!("dx {what}"), dx.read(), gradient.as_slice().unwrap());
}

#[test]
pub(super) fn values_and_gradients_are_the_operations() {
    for [batch, row] in [[1, 1], [3, 37], [2, 4096], [3, 4099], [1, 9000]] {
        agrees(batch, row, false);
        agrees(batch, row, row > 1);
    }
}
