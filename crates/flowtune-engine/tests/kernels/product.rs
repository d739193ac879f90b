//! Products of matrices that lie anywhere: as the emulator multiplies them, and as cuBLAS would be asked.

use half::bf16;

use super::fixture::{Padded, Sample, assert_close, numbers, samples};
use flowtune_engine::kernels::{
    Arg, ColumnMajor, Emulated, Factor, Grid, Kernel, Kind, Launcher, Layout, Operand, Product, product,
};
use flowtune_engine::{Error, Result};

/// What cuBLAS is documented to do with the arguments that it would get.
struct Documented;

impl Launcher for Documented {
    type Memory = ();

    unsafe fn launch(&self, kernel: Kernel, _: Grid, _: &[Arg]) -> Result<()> {
        Err(Error::Launch { kernel: kernel.name, reason: "products only".to_owned() })
    }

    unsafe fn product(&self, product: &Product) -> Result<()> {
        let ask = ColumnMajor::of(product)?;
        let [rows, cols, inner] = ask.extents.map(|extent| usize::try_from(extent).unwrap());
        let (steps, groups) = (ask.steps.map(|x| x as usize), ask.groups.map(|x| x as usize));
        let start = |operand: &Operand, group: usize, side: usize| operand.layout.start + group * groups[side];
        // Element (i, j) of a side, of a matrix of columns that is transposed or not.
        let at = |i: usize, j: usize, side: usize| match ask.transposed[side] {
            true => j + i * steps[side],
            false => i + j * steps[side],
        };
        for group in 0..usize::try_from(ask.count).unwrap() {
            for (i, j) in (0..cols).flat_map(|j| (0..rows).map(move |i| (i, j))) {
                let (left, right) = (start(&product.b, group, 0), start(&product.a, group, 1));
                // SAFETY: checked by the caller.
                let term = |p| unsafe { load(&product.b, left + at(i, p, 0)) * load(&product.a, right + at(p, j, 1)) };
                let sum = product.scale * (0..inner).map(term).sum::<f32>();
                let out = start(&product.c, group, 2) + i + j * steps[2];
                // SAFETY: as above.
                unsafe { store(&product.c, out, if product.add { load(&product.c, out) + sum } else { sum }) };
            }
        }
        Ok(())
    }

    fn scratch(&self, _: usize) -> Result<()> {
        Ok(())
    }

    fn address(&self, (): &()) -> u64 {
        0
    }
}

/// # Safety
/// Element `at` must be there.
unsafe fn load(operand: &Operand, at: usize) -> f32 {
    match operand.kind {
        // SAFETY: the caller's.
        Kind::F32 => unsafe { *(operand.address as *const f32).add(at) },
        // SAFETY: the caller's.
        Kind::Bf16 => unsafe { *(operand.address as *const bf16).add(at) }.to_f32(),
    }
}

/// # Safety
/// Element `at` must be there, and nobody else's.
unsafe fn store(operand: &Operand, at: usize, value: f32) {
    match operand.kind {
        // SAFETY: the caller's.
        Kind::F32 => unsafe { *(operand.address as *mut f32).add(at) = value },
        // SAFETY: the caller's.
        Kind::Bf16 => unsafe { *(operand.address as *mut bf16).add(at) = bf16::from_f32(value) },
    }
}

/// A matrix of each of `groups`, apart from each other and from the start, with gaps between its rows; `[rows, cols]` as the
/// product sees it.
fn scattered(rows: usize, cols: usize, transposed: bool, seed: usize) -> Layout {
    let (own_rows, own_cols) = if transposed { (cols, rows) } else { (rows, cols) };
    let step = own_cols + seed % 3;
    Layout { start: seed, rows: own_rows, cols: own_cols, step, group: own_rows * step + seed % 5, transposed }
}

/// Heads side by side in each row, as in `[tokens, heads, dim]`.
fn heads(tokens: usize, dim: usize, count: usize, transposed: bool) -> Layout {
    Layout { start: 0, rows: tokens, cols: dim, step: count * dim, group: dim, transposed }
}

fn element<T: Sample>(data: &[T], layout: Layout, group: usize, i: usize, j: usize) -> f32 {
    let (i, j) = if layout.transposed { (j, i) } else { (i, j) };
    data[layout.start + group * layout.group + i * layout.step + j].load()
}

fn agrees<L: Launcher, T: Sample, O: Sample>(on: &L, [a_at, b_at, c_at]: [Layout; 3], groups: usize, factor: Factor) {
    let len = |at: Layout| at.start + (groups - 1) * at.group + (at.rows - 1) * at.step + at.cols;
    let (a, b) = (samples::<T>(len(a_at), 1), samples::<T>(len(b_at), 2));
    // The gaps of c hold numbers that must stay; what is only written is NaN before.
    let mut c = samples::<O>(len(c_at), 3);
    let mut want = c.clone();
    let inner = if a_at.transposed { a_at.rows } else { a_at.cols };
    for group in 0..groups {
        for (i, j) in (0..c_at.rows).flat_map(|i| (0..c_at.cols).map(move |j| (i, j))) {
            let at = c_at.start + group * c_at.group + i * c_at.step + j;
            let term = |p| element(&a, a_at, group, i, p) * element(&b, b_at, group, p, j);
            let sum = factor.scale * (0..inner).map(term).sum::<f32>();
            want[at] = O::store(if factor.add { c[at].load() + sum } else { sum });
            if !factor.add {
                c[at] = O::store(f32::NAN);
            }
        }
    }
    let (a, b, mut out) = (Padded::of(&a), Padded::of(&b), Padded::of(&c));
    product(on, (&a.view(), a_at), (&b.view(), b_at), (&mut out.view_mut(), c_at), groups, factor).unwrap();
    assert_close(&format!("{a_at:?} x {b_at:?} = {c_at:?}, {factor:?}"), out.read(), &want);
}

fn all_agree<L: Launcher>(on: &L) {
    for [m, k, n] in [[1, 1, 1], [5, 3, 7], [33, 18, 40], [2, 65, 3]] {
        for (ta, tb) in [(false, false), (false, true), (true, false), (true, true)] {
            let layouts = [scattered(m, k, ta, 4), scattered(k, n, tb, 5), scattered(m, n, false, 7)];
            for factor in [Factor::ONE, Factor::ADD, Factor::scaled(0.3)] {
                agrees::<_, f32, f32>(on, layouts, 3, factor);
                agrees::<_, bf16, f32>(on, layouts, 2, factor);
                agrees::<_, bf16, bf16>(on, layouts, 1, factor);
            }
        }
    }
    // Scores of heads from queries and keys, and back to where the heads lie.
    let (queries, keys, count, dim) = (5, 9, 3, 8);
    let scores = Layout { start: 0, rows: queries, cols: keys, step: keys, group: queries * keys, transposed: false };
    let (q, k) = (heads(queries, dim, count, false), heads(keys, dim, count, false));
    agrees::<_, bf16, f32>(on, [q, k.t(), scores], count, Factor::scaled(0.5));
    agrees::<_, bf16, bf16>(on, [scores, k, q], count, Factor::ONE);
    agrees::<_, bf16, f32>(on, [scores.t(), q, k], count, Factor::ADD);
}

#[test]
fn products_are_sums_wherever_matrices_lie() {
    all_agree(&Emulated::new());
}

#[test]
fn cublas_is_asked_for_the_same() {
    all_agree(&Documented);
}

#[test]
fn what_does_not_fit_is_refused() {
    let (a, b, mut c) = (numbers(12, 1), numbers(12, 2), numbers(16, 3));
    let on = Emulated::new();
    let mut refused = |a_at: Layout, b_at: Layout, c_at: Layout, groups: usize| {
        let (a, b) = (Emulated::view(&a), Emulated::view(&b));
        let out = (&mut Emulated::view_mut(&mut c), c_at);
        product(&on, (&a, a_at), (&b, b_at), out, groups, Factor::ONE).is_err_and(|e| e.code() == "SHAPE_MISMATCH")
    };
    let whole = Layout::whole;
    assert!(!refused(whole(4, 3), whole(3, 4), whole(4, 4), 1));
    assert!(refused(whole(4, 3), whole(4, 3), whole(4, 4), 1), "inner extents");
    assert!(refused(whole(4, 3), whole(3, 4), whole(4, 3), 1), "outer extents");
    assert!(refused(whole(4, 3), whole(3, 4), whole(4, 4).t(), 1), "a transposed result");
    assert!(refused(Layout { start: 1, ..whole(4, 3) }, whole(3, 4), whole(4, 4), 1), "past the end");
    assert!(refused(whole(4, 3), whole(3, 4), Layout { group: 1, ..whole(4, 4) }, 2), "past the end in the last group");
    assert!(refused(Layout { step: 2, ..whole(4, 3) }, whole(3, 4), whole(4, 4), 1), "rows that overlap");
    assert!(
        refused(Layout { group: usize::MAX, ..whole(4, 3) }, whole(3, 4), whole(4, 4), 2),
        "an index that overflows"
    );
    let (x, y) = (numbers(1, 1), numbers(1, 1));
    let mut z = samples::<bf16>(1, 1);
    let out = (&mut Emulated::view_mut(&mut z), whole(1, 1));
    let sides = ((&Emulated::view(&x), whole(1, 1)), (&Emulated::view(&y), whole(1, 1)));
    assert!(product(&on, sides.0, sides.1, out, 1, Factor::ONE).is_err(), "float32 into bfloat16");
}
