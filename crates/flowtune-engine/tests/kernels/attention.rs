use half::bf16;

use super::fixture::{Padded, Sample, assert_close, assert_within, numbers, reference, samples, tensor};
use flowtune_engine::kernels::{
    ChunkRows, Emulated, Heads, probabilities, probabilities_in_place, row_products, score_gradient,
    score_gradient_in_place, softmax, softmax_in_place,
};

/// Each kernel between types S and T against its formula in float64. The log-sum-exps are a chunk of longer rows.
fn pieces_agree<S: Sample, T: Sample>(groups: usize, rows: usize, keys: usize, stride: usize) {
    let (on, of, n) = (Emulated::new(), ChunkRows { groups, rows, keys, stride }, groups * rows * keys);
    let what = |part: &str| format!("{part} {} {} {of:?}", S::NAME, T::NAME);
    let scores: Vec<S> = samples::<S>(n, 1).into_iter().map(|s| S::store(s.load() * 8.0)).collect();
    let exact: Vec<(f64, Vec<f64>)> = scores.chunks(keys).map(|row| exact_softmax(row)).collect();
    let want: Vec<T> = exact.iter().flat_map(|(_, p)| p).map(|&p| T::store(p as f32)).collect();

    let (s, mut p) = (Padded::of(&scores), Padded::<T>::empty(n));
    let per_query = (groups - 1) * stride + rows;
    let mut lse = Padded::<f32>::empty(per_query);
    softmax(&on, &s.view(), &mut p.view_mut(), &mut lse.view_mut(), of).unwrap();
    assert_close(&what("softmax"), p.read(), &want);
    for (row, (want, _)) in exact.iter().enumerate() {
        let got = f64::from(lse.read()[row / rows * stride + row % rows]);
        assert!((got - want).abs() < 1e-5 * want.abs().max(1.0), "{}: {got}, not {want}", what("log-sum-exp"));
    }

    // Of scores that still lack the factor.
    let scale = 0.25;
    let unscaled: Vec<S> = scores.iter().map(|s| S::store(s.load() / scale)).collect();
    let (unscaled, mut again) = (Padded::of(&unscaled), Padded::<T>::empty(n));
    probabilities(&on, &unscaled.view(), &lse.view(), &mut again.view_mut(), of, scale).unwrap();
    assert_close(&what("probabilities"), again.read(), &want);

    let (dp, delta) = (samples::<S>(n, 2), numbers(per_query, 3));
    let ds = |i: usize| {
        let row = i / keys;
        let delta = delta[row / rows * stride + row % rows];
        T::store(want[i].load() * (dp[i].load() - delta) * 0.7)
    };
    let want_ds: Vec<T> = (0..n).map(ds).collect();
    let (p, dp, delta) = (Padded::of(&want), Padded::of(&dp), Padded::of(&delta));
    let mut got = Padded::<T>::empty(n);
    score_gradient(&on, &p.view(), &dp.view(), &delta.view(), &mut got.view_mut(), of, 0.7).unwrap();
    assert_close(&what("score gradient"), got.read(), &want_ds);
}

fn exact_softmax<S: Sample>(row: &[S]) -> (f64, Vec<f64>) {
    let row: Vec<f64> = row.iter().map(|s| f64::from(s.load())).collect();
    let sum: f64 = row.iter().map(|s| s.exp()).sum();
    (sum.ln(), row.iter().map(|s| s.exp() / sum).collect())
}

const CHUNKS: [[usize; 4]; 4] = [[1, 1, 1, 1], [3, 2, 37, 5], [2, 5, 300, 5], [1, 4, 256, 9]];

#[test]
pub(super) fn pieces_are_their_formulas() {
    for [groups, rows, keys, stride] in CHUNKS {
        pieces_agree::<f32, f32>(groups, rows, keys, stride);
        pieces_agree::<f32, bf16>(groups, rows, keys, stride);
        pieces_agree::<bf16, bf16>(groups, rows, keys, stride);
    }
}

fn in_place_is_the_same<T: Sample>([groups, rows, keys, stride]: [usize; 4]) {
    let (on, of, n) = (Emulated::new(), ChunkRows { groups, rows, keys, stride }, groups * rows * keys);
    let (scores, p) = (Padded::of(&samples::<T>(n, 1)), Padded::of(&samples::<T>(n, 2)));
    let same = |part: &str, a: &Padded<T>, b: &Padded<T>| {
        assert!(bytemuck::cast_slice::<T, u8>(a.read()) == bytemuck::cast_slice::<T, u8>(b.read()), "{part} {of:?}");
    };
    let [mut lse, mut other] = [(); 2].map(|()| Padded::<f32>::empty(groups * stride));
    let (mut apart, mut place) = (Padded::<T>::empty(n), Padded::of(scores.read()));
    softmax(&on, &scores.view(), &mut apart.view_mut(), &mut lse.view_mut(), of).unwrap();
    softmax_in_place(&on, &mut place.view_mut(), &mut other.view_mut(), of).unwrap();
    same("softmax", &place, &apart);

    let mut place = Padded::of(scores.read());
    probabilities(&on, &scores.view(), &lse.view(), &mut apart.view_mut(), of, 0.5).unwrap();
    probabilities_in_place(&on, &mut place.view_mut(), &other.view(), of, 0.5).unwrap();
    same("probabilities", &place, &apart);

    let mut place = Padded::of(scores.read());
    score_gradient(&on, &p.view(), &scores.view(), &lse.view(), &mut apart.view_mut(), of, 0.5).unwrap();
    score_gradient_in_place(&on, &p.view(), &mut place.view_mut(), &lse.view(), of, 0.5).unwrap();
    same("score gradient", &place, &apart);
}

#[test]
pub(super) fn a_result_may_take_the_place_of_its_input() {
    for chunk in CHUNKS {
        in_place_is_the_same::<f32>(chunk);
        in_place_is_the_same::<bf16>(chunk);
    }
}

/// c = a·b for row-major a `[rows, inner]` and an element of b by its indices.
fn product(a: &[f32], inner: usize, cols: usize, b: impl Fn(usize, usize) -> f32) -> Vec<f32> {
    let dot = |row: &[f32], j: usize| row.iter().enumerate().map(|(k, x)| x * b(k, j)).sum();
    a.chunks(inner).flat_map(|row| (0..cols).map(move |j| dot(row, j))).collect()
}

/// Attention made of the kernels, chunk by chunk, against the operation. Products are float32 throughout.
fn attention_agrees<T: Sample>([batch, queries, keys, heads, dim]: [usize; 5], chunk: usize, bound: f32) {
    let on = Emulated::new();
    let (of_q, of_k) = ([batch, queries, heads, dim], [batch, keys, heads, dim]);
    let [nq, nk] = [of_q, of_k].map(|shape| shape.iter().product());
    let (q, k, v, g) = (samples::<T>(nq, 1), samples::<T>(nk, 2), samples::<T>(nk, 3), samples::<T>(nq, 4));
    let inputs = [tensor(&q, &of_q), tensor(&k, &of_k), tensor(&v, &of_k)];
    let of_out = [batch, queries, heads * dim];
    let (want, gradients) = reference(|tape, v| tape.attention(&v[0], &v[1], &v[2]), &inputs, &tensor(&g, &of_out));

    let o = Padded::of(want.as_slice::<T>().unwrap());
    let mut delta = Padded::<f32>::empty(batch * heads * queries);
    let extents = Heads { batch, tokens: queries, heads, dim };
    row_products(&on, &o.view(), &Padded::of(&g).view(), &mut delta.view_mut(), extents).unwrap();
    // Of head `at`, tokens from `start` on, `[tokens, dim]`.
    let head = |data: &[T], tokens: usize, at: usize, start: usize, count: usize| -> Vec<f32> {
        let token = |t: usize| &data[((at / heads * tokens + t) * heads + at % heads) * dim..][..dim];
        (start..start + count).flat_map(|t| token(t).iter().map(|x| x.load())).collect()
    };
    let scale = (dim as f32).sqrt().recip();
    let floats = |data: &Padded<T>| -> Vec<f32> { data.read().iter().map(|x| x.load()).collect() };
    for at in 0..batch * heads {
        let [ks, vs] = [&k, &v].map(|data| head(data, keys, at, 0, keys));
        let (mut dk, mut dv) = (vec![0f32; keys * dim], vec![0f32; keys * dim]);
        for start in (0..queries).step_by(chunk) {
            let rows = chunk.min(queries - start);
            let of = ChunkRows { groups: 1, rows, keys, stride: rows };
            let [qs, gs] = [&q, &g].map(|data| head(data, queries, at, start, rows));
            let scores = product(&qs, dim, keys, |d, j| ks[j * dim + d]);
            let scaled = Padded::of(&scores.iter().map(|s| s * scale).collect::<Vec<_>>());
            let (mut p, mut lse) = (Padded::<T>::empty(rows * keys), Padded::<f32>::empty(rows));
            softmax(&on, &scaled.view(), &mut p.view_mut(), &mut lse.view_mut(), of).unwrap();
            let out = product(&floats(&p), keys, dim, |j, d| vs[j * dim + d]);
            let what = |part: &str| format!("{part} {} of head {at} from {start}", T::NAME);
            let want_out = head(want.as_slice().unwrap(), queries, at, start, rows);
            assert_within(&what("output"), &out, &want_out, bound);

            probabilities(&on, &Padded::of(&scores).view(), &lse.view(), &mut p.view_mut(), of, scale).unwrap();
            let dp = Padded::of(&product(&gs, dim, keys, |d, j| vs[j * dim + d]));
            let mut ds = Padded::<T>::empty(rows * keys);
            let delta = delta.view();
            let delta = delta.slice(at * queries + start, rows).unwrap();
            score_gradient(&on, &p.view(), &dp.view(), &delta, &mut ds.view_mut(), of, scale).unwrap();
            let (p, ds) = (floats(&p), floats(&ds));
            let dq = product(&ds, keys, dim, |j, d| ks[j * dim + d]);
            let want_dq = head(gradients[0].as_slice().unwrap(), queries, at, start, rows);
            assert_within(&what("dq"), &dq, &want_dq, bound);
            for i in 0..rows {
                for j in 0..keys {
                    for d in 0..dim {
                        dk[j * dim + d] += ds[i * keys + j] * qs[i * dim + d];
                        dv[j * dim + d] += p[i * keys + j] * gs[i * dim + d];
                    }
                }
            }
        }
        for (name, got, want) in [("dk", &dk, &gradients[1]), ("dv", &dv, &gradients[2])] {
            let want = head(want.as_slice().unwrap(), keys, at, 0, keys);
            assert_within(&format!("{name} {} of head {at}", T::NAME), got, &want, bound);
        }
    }
}

#[test]
pub(super) fn chunked_attention_is_the_operation() {
    // With a single key the gradients of queries and keys would be rounding alone.
    for (extents, chunk) in [([1, 1, 2, 1, 2], 1), ([2, 7, 45, 3, 8], 3), ([1, 5, 300, 2, 6], 5)] {
        attention_agrees::<f32>(extents, chunk, 2e-5);
        // A few roundings to eight bits.
        attention_agrees::<bf16>(extents, chunk, 2e-2);
    }
}
