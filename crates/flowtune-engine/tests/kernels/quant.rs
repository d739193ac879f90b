use half::bf16;

use super::fixture::{Padded, Sample, numbers};
use flowtune_engine::kernels::{Emulated, int8_rows, nf4, stochastic_round};
use flowtune_engine::{NF4, NF4_BLOCK};

fn bytes<T: bytemuck::Pod>(x: &[T]) -> &[u8] {
    bytemuck::cast_slice(x)
}

fn nf4_agrees<T: Sample>(n: usize) {
    let code = |i: usize| (i * 7 % 16) as u8;
    // An odd length leaves half of the last byte.
    let codes: Vec<u8> = (0..n.div_ceil(2)).map(|i| code(2 * i) << 4 | code(2 * i + 1)).collect();
    let scales = numbers(n.div_ceil(NF4_BLOCK), 1);
    let want: Vec<T> = (0..n).map(|i| T::store(NF4[usize::from(code(i))] * scales[i / NF4_BLOCK])).collect();
    let (codes, scales, table) = (Padded::of(&codes), Padded::of(&scales), Padded::of(&NF4));
    let mut out = Padded::<T>::empty(n);
    nf4(&Emulated::new(), &codes.view(), &scales.view(), &table.view(), &mut out.view_mut()).unwrap();
    assert!(bytes(out.read()) == bytes(&want), "{} {n}", T::NAME);
}

#[test]
pub(super) fn nf4_is_its_table_times_its_scale() {
    for n in [1, 2, 63, 64, 1000, 1027] {
        nf4_agrees::<f32>(n);
        nf4_agrees::<bf16>(n);
    }
}

fn int8_agrees<T: Sample>(rows: usize, dim: usize) {
    let data: Vec<i8> = (0..rows * dim).map(|i| (i * 37 % 255) as u8 as i8).collect();
    let scales = numbers(rows, 1);
    let want: Vec<T> = data.iter().enumerate().map(|(i, &q)| T::store(f32::from(q) * scales[i / dim])).collect();
    let (data, scales, mut out) = (Padded::of(&data), Padded::of(&scales), Padded::<T>::empty(rows * dim));
    int8_rows(&Emulated::new(), &data.view(), &scales.view(), &mut out.view_mut(), [rows, dim]).unwrap();
    assert!(bytes(out.read()) == bytes(&want), "{} {rows}x{dim}", T::NAME);
}

#[test]
pub(super) fn int8_rows_are_integers_times_their_scale() {
    for [rows, dim] in [[1, 1], [1, 300], [5, 33], [130, 64]] {
        int8_agrees::<f32>(rows, dim);
        int8_agrees::<bf16>(rows, dim);
    }
}

fn rounded(x: &[f32], seed: u64, start: u64) -> Vec<bf16> {
    let (x, mut out) = (Padded::of(x), Padded::empty(x.len()));
    stochastic_round(&Emulated::new(), &x.view(), &mut out.view_mut(), seed, start).unwrap();
    out.read().to_vec()
}

#[test]
pub(super) fn stochastic_rounding_is_right_on_average() {
    const COUNT: usize = 4096;
    // Between 1 and its neighbour, and the same below 0; five standard deviations of the share that goes up.
    for share in [0.1f32, 0.5, 0.8] {
        let bound = 5.0 * (share * (1.0 - share) / COUNT as f32).sqrt();
        for sign in [1.0, -1.0] {
            let near = sign * (1.0 + share / 128.0);
            let got = rounded(&vec![near; COUNT], 7, 0);
            let away = got.iter().filter(|x| x.load() == sign * (1.0 + 1.0 / 128.0)).count();
            assert_eq!(away + got.iter().filter(|x| x.load() == sign).count(), COUNT, "only neighbours");
            assert!((away as f32 / COUNT as f32 - share).abs() < bound, "{away} of {COUNT} for {near}");
        }
    }
}

#[test]
fn stochastic_rounding_repeats_and_leaves_what_is_exact() {
    let x = numbers(1000, 1);
    let whole = rounded(&x, 3, 0);
    assert_eq!(rounded(&x, 3, 0), whole);
    assert_ne!(rounded(&x, 4, 0), whole);
    assert_eq!([rounded(&x[..300], 3, 0), rounded(&x[300..], 3, 300)].concat(), whole, "cut in two");
    let exact = [0.0, -0.0, 1.0, -2.5, f32::INFINITY, f32::NEG_INFINITY, f32::MIN_POSITIVE];
    for seed in 0..50 {
        assert_eq!(rounded(&exact, seed, 0).iter().map(|x| x.load()).collect::<Vec<_>>(), exact);
    }
    // A NaN whose only bits would be cut off.
    assert!(rounded(&[f32::from_bits(0x7f80_0001)], 1, 0)[0].is_nan());
}
