use super::*;

fn numbers(count: usize, seed: u32) -> Vec<f32> {
    (0..count as u32)
        .map(|i| (i.wrapping_mul(2_654_435_761).wrapping_add(seed * 97) >> 8) as f32 / (1 << 23) as f32 - 1.0)
        .collect()
}

/// A matrix in either order.
fn mat<T>(data: &[T], rows: usize, cols: usize, transposed: bool) -> Mat<'_, T> {
    if transposed { Mat::new(data, cols, rows).t() } else { Mat::new(data, rows, cols) }
}

/// Odd sizes, sizes past one tile, one chunk of columns and one packed buffer.
const SIZES: [(usize, usize, usize); 6] =
    [(1, 1, 1), (5, 7, 3), (12, 64, 32), (37, 130, 161), (25, 4100, 40), (100, 3, 300)];

#[test]
fn every_kernel_multiplies_floats_in_every_order() {
    for (m, k, n) in SIZES {
        let (a, b) = (numbers(m * k, 1), numbers(k * n, 2));
        let (ah, bh): (Vec<bf16>, Vec<bf16>) =
            (a.iter().map(|&x| bf16::from_f32(x)).collect(), b.iter().map(|&x| bf16::from_f32(x)).collect());
        for order in 0..4 {
            let (ta, tb) = (order & 1 == 1, order & 2 == 2);
            check::<F32>(mat(&a, m, k, ta), mat(&b, k, n, tb), f64::from, f64::from);
            check::<Bf16>(mat(&ah, m, k, ta), mat(&bh, k, n, tb), f64::from, f64::from);
        }
    }
}

/// A matrix that is made by copying another.
struct Copied<'a, R>(Mat<'a, R>);

impl<R: Packed> Made<R> for Copied<'_, R> {
    fn extents(&self) -> (usize, usize) {
        (self.0.rows(), self.0.cols())
    }

    fn write(&self, k: Range<usize>, cols: Range<usize>, out: &mut [R], stride: usize) {
        for (i, out) in k.zip(out.chunks_mut(stride)) {
            for (j, out) in cols.clone().zip(out) {
                *out = self.0.get(i, j);
            }
        }
    }
}

fn check<K: Kind<Sum = f32>>(
    a: Mat<K::Left>,
    b: Mat<K::Right>,
    left: impl Fn(K::Left) -> f64,
    right: impl Fn(K::Right) -> f64,
) {
    let (m, n, k) = (a.rows(), b.cols(), a.cols());
    // The sum, and the sum of absolute values, which rounding is relative to.
    let want: Vec<[f64; 2]> = (0..m * n)
        .map(|i| {
            let products = (0..k).map(|x| left(a.get(i / n, x)) * right(b.get(x, i % n)));
            products.fold([0.0; 2], |[sum, size], p| [sum + p, size + p.abs()])
        })
        .collect();
    let (panels, made) = (Panels::packed(b), Copied(b));
    for &(name, kernel) in K::kernels() {
        for threads in [Threads::One, Threads::All] {
            let got = std::sync::Mutex::new(vec![0f32; m * n]);
            // Three terms: the product as it lies, packed beforehand, and made where it is packed.
            let terms = [b.into(), (&panels).into(), Right::Made(&made)].map(|b| Term { a, b });
            let operands: Vec<Operand> = terms.iter().map(|term| Operand::of::<K>(kernel, term)).collect();
            sums_of(&operands, threads, |i, cols, sums: &mut [f32]| {
                got.lock().unwrap()[i * n + cols.start..][..cols.len()].copy_from_slice(sums);
            });
            for (i, (&got, &[want, size])) in got.into_inner().unwrap().iter().zip(&want).enumerate() {
                let off = (f64::from(got) - 3.0 * want).abs();
                assert!(
                    off <= 1e-6 * (k as f64).sqrt() * size,
                    "{name} {m}x{k}x{n} at {i}: {got}, off by {off:e} of {size:e}"
                );
            }
        }
    }
}

#[test]
fn every_kernel_multiplies_bytes_exactly() {
    for (m, k, n) in SIZES {
        let a: Vec<u8> = (0..m * k).map(|i| (i * 37 % 256) as u8).collect();
        let b: Vec<i8> = (0..k * n).map(|i| (i * 91 % 256) as u8 as i8).collect();
        for transposed in [false, true] {
            let (a, b) = (Mat::new(&a, m, k), mat(&b, k, n, transposed));
            for &(name, kernel) in Int8::kernels() {
                let got = std::sync::Mutex::new(vec![0i32; m * n]);
                let term = Term { a, b: b.into() };
                sums_of(&[Operand::of::<Int8>(kernel, &term)], Threads::All, |i, cols, sums: &mut [i32]| {
                    got.lock().unwrap()[i * n + cols.start..][..cols.len()].copy_from_slice(sums);
                });
                let want = (0..m * n)
                    .map(|i| (0..k).map(|x| i32::from(a.get(i / n, x)) * i32::from(b.get(x, i % n))).sum::<i32>());
                assert!(got.into_inner().unwrap().into_iter().eq(want), "{name} {m}x{k}x{n}");
            }
        }
    }
}

#[test]
fn a_product_is_added_scaled_and_rounded_once() {
    let (a, b) = (numbers(20 * 30, 3), numbers(30 * 40, 4));
    let round = |x: &f32| bf16::from_f32(*x);
    let (a, b): (Vec<bf16>, Vec<bf16>) = (a.iter().map(round).collect(), b.iter().map(round).collect());
    let term = || [Term { a: Mat::new(&a, 20, 30), b: Mat::new(&b, 30, 40).into() }];
    let dot = |i: usize| (0..30).map(|k| f64::from(a[i / 40 * 30 + k]) * f64::from(b[k * 40 + i % 40])).sum::<f64>();
    let mut exact = vec![0.5f32; 20 * 40];
    product::<Bf16, _>(MatMut::new(&mut exact, 40), Write::Add, 0.25, &term(), Threads::All);
    for (i, &got) in exact.iter().enumerate() {
        assert!((f64::from(got) - (0.5 + 0.25 * dot(i))).abs() < 1e-5, "{i}: {got}");
    }
    let mut rounded = vec![bf16::from_f32(0.5); 20 * 40];
    product::<Bf16, _>(MatMut::new(&mut rounded, 40), Write::Add, 0.25, &term(), Threads::All);
    assert!(exact.iter().zip(&rounded).all(|(&e, &r)| bf16::from_f32(e) == r));
}

#[test]
fn bytes_are_settled_before_floats_are_added() {
    for (m, k, n) in SIZES {
        let a: Vec<u8> = (0..m * k).map(|i| (i * 37 % 256) as u8).collect();
        let b: Vec<i8> = (0..k * n).map(|i| (i * 91 % 256) as u8 as i8).collect();
        let (x, y) = (numbers(m * 5, 1), numbers(5 * n, 2));
        let (x, y): (Vec<bf16>, Vec<bf16>) =
            (x.into_iter().map(bf16::from_f32).collect(), y.into_iter().map(bf16::from_f32).collect());
        let scale = |i: usize, j: usize| 1e-6 * (1 + i + 2 * j) as f32;
        let mut got = vec![0f32; m * n];
        // Two terms of bytes: what is settled is the sum of both.
        let bytes = || Term { a: Mat::new(&a, m, k), b: Mat::new(&b, k, n).into() };
        product_and_rest::<Int8, Bf16, f32>(
            MatMut::new(&mut got, n),
            &[bytes(), bytes()],
            |i, cols, sums| {
                for (sum, j) in sums.iter_mut().zip(cols) {
                    *sum = (*sum as i32 as f32 * scale(i, j)).to_bits();
                }
            },
            &[Term { a: Mat::new(&x, m, 5), b: Mat::new(&y, 5, n).into() }],
            Threads::All,
        );
        for (at, got) in got.into_iter().enumerate() {
            let (i, j) = (at / n, at % n);
            let of_bytes: i32 = (0..k).map(|p| i32::from(a[i * k + p]) * i32::from(b[p * n + j])).sum();
            let of_floats: f64 = (0..5).map(|p| x[i * 5 + p].to_f64() * y[p * n + j].to_f64()).sum();
            let settled = 2.0 * f64::from(of_bytes) * f64::from(scale(i, j));
            let want = settled + of_floats;
            assert!(
                (f64::from(got) - want).abs() <= 1e-5 * (settled.abs() + 5.0),
                "{m}x{k}x{n} at {at}: {got} for {want}"
            );
        }
    }
}
