use candle_core::{Device, Tensor as Candle};

use super::{RopeTable, causal_attention, full_attention, rope_half_split, rope_table};
use crate::tensor::Tensor;

fn noise(shape: &[usize], seed: f64) -> Tensor {
    let n = shape.iter().product::<usize>();
    Tensor::from_vec((0..n).map(|i| 2.0 * (i as f64 * 7.131 + seed).sin()).collect(), shape).unwrap()
}

fn close(got: &Tensor, want: &[f64]) {
    assert_eq!(got.len(), want.len());
    for (i, (got, want)) in got.as_slice::<f64>().unwrap().iter().zip(want).enumerate() {
        assert!((got - want).abs() <= 1e-10, "element {i}: {got}, expected {want}");
    }
}

/// One output element after the other, from the definition; tokens that see nothing stay zero.
fn naive(q: &Tensor, k: &Tensor, v: &Tensor, sees: impl Fn(usize, usize, usize) -> bool) -> Vec<f64> {
    let (batch, tokens, heads, dim) = (q.dim(0), q.dim(1), q.dim(2), q.dim(3));
    let (keys, kv_heads) = (k.dim(1), k.dim(2));
    let (q, k, v) = (q.as_slice::<f64>().unwrap(), k.as_slice::<f64>().unwrap(), v.as_slice::<f64>().unwrap());
    let mut out = Vec::new();
    for (b, i, h) in (0..batch * tokens * heads).map(|n| (n / heads / tokens, n / heads % tokens, n % heads)) {
        let q = &q[((b * tokens + i) * heads + h) * dim..][..dim];
        let at = |j: usize| ((b * keys + j) * kv_heads + h * kv_heads / heads) * dim;
        let weights: Vec<f64> = (0..keys)
            .map(|j| match sees(b, i, j) {
                true => (q.iter().zip(&k[at(j)..]).map(|(q, k)| q * k).sum::<f64>() / (dim as f64).sqrt()).exp(),
                false => 0.0,
            })
            .collect();
        let total = weights.iter().sum::<f64>();
        let total = if total == 0.0 { 1.0 } else { total };
        out.extend((0..dim).map(|c| (0..keys).map(|j| weights[j] / total * v[at(j) + c]).sum::<f64>()));
    }
    out
}

#[test]
fn causal_and_masked_and_grouped() {
    // More tokens than one chunk of queries.
    let (batch, tokens) = (2, 70);
    let q = noise(&[batch, tokens, 4, 6], 0.1);
    let (k, v) = (noise(&[batch, tokens, 2, 6], 0.2), noise(&[batch, tokens, 2, 6], 0.3));
    close(&causal_attention(&q, &k, &v, None).unwrap(), &naive(&q, &k, &v, |_, i, j| j <= i));
    // The first sample is padded on the left, the second on the right: its first five rows see nothing.
    let keep = |b: usize, j: usize| if b == 0 { j >= 5 } else { j < 60 };
    let mask = (0..batch * tokens).map(|n| i64::from(keep(n / tokens, n % tokens))).collect();
    let mask = Tensor::from_vec(mask, &[batch, tokens]).unwrap();
    let got = causal_attention(&q, &k, &v, Some(&mask)).unwrap();
    close(&got, &naive(&q, &k, &v, |b, i, j| j <= i && keep(b, j)));
    assert!(got.as_slice::<f64>().unwrap()[..5 * 24].iter().all(|&x| x == 0.0));
}

#[test]
fn hidden_keys_do_not_matter_in_float32() {
    let f32s = |seed| noise(&[1, 9, 2, 4], seed).to_dtype(crate::DType::F32).unwrap();
    let (q, k, mut v) = (f32s(0.1), f32s(0.2), f32s(0.3));
    let mask = Tensor::from_vec(vec![1i64, 0, 1, 1, 0, 1, 1, 1, 1], &[1, 9]).unwrap();
    let before = causal_attention(&q, &k, &v, Some(&mask)).unwrap();
    v.as_mut_slice::<f32>().unwrap()[8..16].fill(1e30);
    let after = causal_attention(&q, &k, &v, Some(&mask)).unwrap();
    assert_eq!(before.as_slice::<f32>().unwrap(), after.as_slice::<f32>().unwrap());
}

#[test]
fn full_attention_equals_candle() {
    let (tokens, keys, heads, dim) = (67, 5, 2, 8);
    let q = noise(&[1, tokens, heads, dim], 0.4);
    let (k, v) = (noise(&[1, keys, heads, dim], 0.5), noise(&[1, keys, heads, dim], 0.6));
    let per_head = |t: &Tensor| {
        let t = Candle::from_slice(t.as_slice::<f64>().unwrap(), t.shape(), &Device::Cpu).unwrap();
        t.transpose(1, 2).unwrap().contiguous().unwrap()
    };
    let (cq, ck, cv) = (per_head(&q), per_head(&k), per_head(&v));
    let scores = (cq.matmul(&ck.t().unwrap()).unwrap() / (dim as f64).sqrt()).unwrap();
    let p = candle_nn::ops::softmax(&scores, 3).unwrap();
    let want = p.matmul(&cv).unwrap().transpose(1, 2).unwrap().flatten_all().unwrap();
    close(&full_attention(&q, &k, &v).unwrap(), &want.to_vec1::<f64>().unwrap());
}

#[test]
fn half_split_rope_equals_candle() {
    let (batch, tokens, heads, dim) = (2, 5, 3, 8);
    let x = noise(&[batch, tokens, heads, dim], 0.7);
    let f64s = |t: &Tensor| t.to_dtype(crate::DType::F64).unwrap();
    let table = rope_table(tokens, dim, 1e4);
    let table = RopeTable { cos: f64s(&table.cos), sin: f64s(&table.sin) };
    let of =
        |t: &Tensor, shape: &[usize]| Candle::from_slice(t.as_slice::<f64>().unwrap(), shape, &Device::Cpu).unwrap();
    let cx = of(&x, x.shape()).transpose(1, 2).unwrap().contiguous().unwrap();
    let (cos, sin) = (of(&table.cos, &[tokens, dim / 2]), of(&table.sin, &[tokens, dim / 2]));
    let want = candle_nn::rotary_emb::rope_slow(&cx, &cos, &sin).unwrap();
    let want = want.transpose(1, 2).unwrap().flatten_all().unwrap().to_vec1::<f64>().unwrap();
    close(&rope_half_split(&x, &table).unwrap(), &want);
}

#[test]
fn extents_that_do_not_fit_are_refused() {
    let (q, k) = (noise(&[1, 4, 4, 6], 0.0), noise(&[1, 4, 3, 6], 0.0));
    assert_eq!(causal_attention(&q, &k, &k, None).unwrap_err().code(), "SHAPE_MISMATCH");
    let k = noise(&[1, 5, 2, 6], 0.0);
    assert_eq!(causal_attention(&q, &k, &k, None).unwrap_err().code(), "SHAPE_MISMATCH");
    assert_eq!(rope_half_split(&q, &rope_table(3, 6, 1e4)).unwrap_err().code(), "SHAPE_MISMATCH");
}
