//! Indices past 2³² elements. The buffers are reserved and never filled: only the last block of each grid runs, and only
//! the pages that it touches exist.

use half::bf16;

use super::fixture::{Sample, numbers, samples};
use flowtune_engine::kernels::{
    Arg, ChunkRows, Emulated, Grid, Kernel, Launcher, Modulated, RopeHeads, View, ViewMut, adamw, gated_residual,
    gated_residual_dy, int8_rows, layer_norm_modulate, layer_norm_modulate_dx, nf4, rms_norm_rope, rms_norm_rope_dx,
    scale, softmax_in_place, stochastic_round, swiglu, swiglu_dx, weighted_mse_dx,
};
use flowtune_engine::ops::optimizer::{AdamW, AdamWStep};
use flowtune_engine::{NF4, NF4_BLOCK};

/// The last block of each launch.
fn last() -> Emulated {
    Emulated::last_blocks(1)
}

/// Address space with zeros.
struct Reserved<T> {
    address: *mut T,
    len: usize,
}

impl<T> Reserved<T> {
    fn new(len: usize) -> Self {
        let (kind, access) = (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, libc::PROT_READ | libc::PROT_WRITE);
        let bytes = len * size_of::<T>();
        // SAFETY: a new mapping.
        let address = unsafe { libc::mmap(std::ptr::null_mut(), bytes, access, kind | libc::MAP_NORESERVE, -1, 0) };
        assert_ne!(address, libc::MAP_FAILED, "{bytes} bytes of address space");
        Self { address: address.cast(), len }
    }

    /// With `data` at the end.
    fn ending_in(len: usize, data: &[T]) -> Self
    where
        T: Copy,
    {
        let mut reserved = Self::new(len);
        reserved.end(data.len()).copy_from_slice(data);
        reserved
    }

    fn end(&mut self, count: usize) -> &mut [T] {
        // SAFETY: within the mapping, which is zeros or what was written.
        unsafe { std::slice::from_raw_parts_mut(self.address.add(self.len - count), count) }
    }

    fn view(&self) -> View<'_, T> {
        // SAFETY: there and not written while it is borrowed.
        unsafe { View::new(self.address as u64, self.len) }
    }

    fn view_mut(&mut self) -> ViewMut<'_, T> {
        // SAFETY: nothing else uses it.
        unsafe { ViewMut::new(self.address as u64, self.len) }
    }
}

impl<T> Drop for Reserved<T> {
    fn drop(&mut self) {
        // SAFETY: mapped with this length; nothing borrows it any more.
        unsafe { libc::munmap(self.address.cast(), self.len * size_of::<T>()) };
    }
}

const PAST: usize = 1 << 32;
const DIM: usize = 1000;
/// Rows of [`DIM`] that go past it.
const ROWS: usize = PAST / DIM + 2;

/// What the last row of a large buffer becomes, and what a buffer of that row alone does.
fn same(what: &str, large: &[f32], alone: &[f32]) {
    assert!(alone.iter().any(|&x| x != 0.0), "{what}: nothing to see");
    assert_eq!(large, alone, "{what}");
}

fn floats<T: Sample>(data: &[T]) -> Vec<f32> {
    data.iter().map(|x| x.load()).collect()
}

#[test]
fn rows() {
    let on = last();
    let x = numbers(2 * DIM, 1);
    let mut out = Reserved::<f32>::new(ROWS * DIM);
    swiglu(&on, &Reserved::ending_in(ROWS * 2 * DIM, &x).view(), &mut out.view_mut(), ROWS, DIM).unwrap();
    let mut alone = vec![0f32; DIM];
    swiglu(&on, &Emulated::view(&x), &mut Emulated::view_mut(&mut alone), 1, DIM).unwrap();
    same("swiglu", out.end(DIM), &alone);

    let (g, mut alone) = (numbers(DIM, 2), vec![0f32; 2 * DIM]);
    let [xs, gs] = [(2 * DIM, &x), (DIM, &g)].map(|(dim, data)| Reserved::ending_in(ROWS * dim, data));
    let mut dx = Reserved::<f32>::new(ROWS * 2 * DIM);
    swiglu_dx(&on, &xs.view(), &gs.view(), &mut dx.view_mut(), ROWS, DIM).unwrap();
    swiglu_dx(&on, &Emulated::view(&x), &Emulated::view(&g), &mut Emulated::view_mut(&mut alone), 1, DIM).unwrap();
    same("swiglu_dx", dx.end(2 * DIM), &alone);
}

#[test]
fn rows_of_samples() {
    let on = last();

    // The last sample begins past 2³² too.
    let (tokens, batch) = (ROWS / 2 + 2, 2);
    let (large, small) = (Modulated { batch, tokens, dim: DIM }, Modulated { batch: 1, tokens: 1, dim: DIM });
    let (x, y, gate) = (numbers(DIM, 1), samples::<bf16>(DIM, 2), numbers(DIM, 3));
    let [xs, gates] = [(tokens * batch, &x), (batch, &gate)].map(|(rows, data)| Reserved::ending_in(rows * DIM, data));
    let (xs, gates, ys) = (xs.view(), gates.view(), Reserved::ending_in(tokens * batch * DIM, &y));
    let mut out = Reserved::<f32>::new(tokens * batch * DIM);
    gated_residual(&on, &xs, &gates, &ys.view(), &mut out.view_mut(), large).unwrap();
    let [x, gate] = [&x, &gate].map(|data| Emulated::view(data));
    let mut alone = vec![0f32; DIM];
    gated_residual(&on, &x, &gate, &Emulated::view(&y), &mut Emulated::view_mut(&mut alone), small).unwrap();
    same("gated_residual", out.end(DIM), &alone);

    layer_norm_modulate(&on, &xs, &gates, &gates, &mut out.view_mut(), large, 1e-6).unwrap();
    layer_norm_modulate(&on, &x, &gate, &gate, &mut Emulated::view_mut(&mut alone), small, 1e-6).unwrap();
    same("layer_norm_modulate", out.end(DIM), &alone);

    layer_norm_modulate_dx(&on, &xs, &gates, &ys.view(), &mut out.view_mut(), large, 1e-6).unwrap();
    let dx = &mut Emulated::view_mut(&mut alone);
    layer_norm_modulate_dx(&on, &x, &gate, &Emulated::view(&y), dx, small, 1e-6).unwrap();
    same("layer_norm_modulate_dx", out.end(DIM), &alone);

    gated_residual_dy(&on, &xs, &gates, &mut out.view_mut(), large).unwrap();
    gated_residual_dy(&on, &x, &gate, &mut Emulated::view_mut(&mut alone), small).unwrap();
    same("gated_residual_dy", out.end(DIM), &alone);
}

#[test]
fn scores() {
    let row = samples::<bf16>(DIM, 1);
    let mut large = Reserved::ending_in(ROWS * DIM, &row);
    let mut lse = Reserved::<f32>::new(ROWS);
    let of = ChunkRows { groups: 1, rows: ROWS, keys: DIM, stride: ROWS };
    softmax_in_place(&last(), &mut large.view_mut(), &mut lse.view_mut(), of).unwrap();
    let (mut alone, mut of_alone) = (row, [0f32]);
    let of = ChunkRows { groups: 1, rows: 1, keys: DIM, stride: 1 };
    let (p, sum) = (&mut Emulated::view_mut(&mut alone), &mut Emulated::view_mut(&mut of_alone));
    softmax_in_place(&last(), p, sum, of).unwrap();
    same("softmax", &floats(large.end(DIM)), &floats(&alone));
    same("log-sum-exp", lse.end(1), &of_alone);
}

#[test]
fn heads() {
    let (heads, dim) = (8, 128);
    let tokens = PAST / heads / dim + 1;
    // A block has eight heads: one token.
    let (x, weight, angles) = (samples::<bf16>(heads * dim, 1), numbers(dim, 2), numbers(dim / 2, 3));
    let table = Reserved::ending_in(tokens * dim / 2, &angles);
    let (table, weight) = (table.view(), Emulated::view(&weight));
    let of = RopeHeads { batch: 1, tokens, heads, dim, cos: &table, sin: &table };
    let mut out = Reserved::<bf16>::new(tokens * heads * dim);
    let large = Reserved::ending_in(tokens * heads * dim, &x);
    rms_norm_rope(&last(), &large.view(), &weight, &mut out.view_mut(), &of, 1e-6).unwrap();
    let angles = Emulated::view(&angles);
    let mut dx = Reserved::<bf16>::new(tokens * heads * dim);
    rms_norm_rope_dx(&last(), &large.view(), &weight, &large.view(), &mut dx.view_mut(), &of, 1e-6).unwrap();
    let of = RopeHeads { tokens: 1, cos: &angles, sin: &angles, ..of };
    let mut alone = vec![bf16::ZERO; heads * dim];
    rms_norm_rope(&last(), &Emulated::view(&x), &weight, &mut Emulated::view_mut(&mut alone), &of, 1e-6).unwrap();
    same("rms_norm_rope", &floats(out.end(heads * dim)), &floats(&alone));
    let (x, out) = (Emulated::view(&x), &mut Emulated::view_mut(&mut alone));
    rms_norm_rope_dx(&last(), &x, &weight, &x, out, &of, 1e-6).unwrap();
    same("rms_norm_rope_dx", &floats(dx.end(heads * dim)), &floats(&alone));
}

/// The first pass of sums over tokens: its last block has the last columns of the last chunk.
#[test]
fn tiles() {
    const CHUNK: usize = 64;
    let (last_rows, last_columns) = (ROWS % CHUNK, DIM % 256);
    let (g, y) = (numbers(last_rows * DIM, 1), numbers(last_rows * DIM, 2));
    let [gs, ys] = [&g, &y].map(|data| Reserved::ending_in(ROWS * DIM, data));
    let chunks = ROWS.div_ceil(CHUNK);
    let mut partial = Reserved::<f32>::new(chunks * DIM);
    let address = |buffer: &Reserved<f32>| Arg::Pointer(buffer.address as u64);
    let args = [address(&gs), address(&ys), address(&partial), ROWS.into(), DIM.into(), CHUNK.into()];
    let kernel = Kernel::new("residual", "gated_residual_sums", "f32");
    // SAFETY: the kernel's parameters; a row of partial sums for each chunk.
    unsafe { last().launch(kernel, Grid::tiles("tiles", chunks, DIM).unwrap(), &args) }.unwrap();
    let column = |j: usize| (0..last_rows).fold(0.0, |sum, row| sum + g[row * DIM + j] * y[row * DIM + j]);
    same("sums", partial.end(last_columns), &(DIM - last_columns..DIM).map(column).collect::<Vec<_>>());
}

#[test]
fn weights() {
    let n = PAST + 100;
    let (w, g) = (numbers(100, 1), numbers(100, 2));
    let step = AdamWStep::new(AdamW { lr: 1e-2, beta1: 0.9, beta2: 0.99, eps: 1e-8, weight_decay: 0.1 }, 1);
    let mut large = Reserved::ending_in(n, &w);
    let [mut m, mut v] = [(); 2].map(|()| Reserved::<f32>::new(n));
    let gradient = Reserved::ending_in(n, &g);
    adamw(&last(), &mut large.view_mut(), &gradient.view(), &mut m.view_mut(), &mut v.view_mut(), step).unwrap();
    let (mut alone, [mut first, mut second]) = (w.clone(), [[0f32; 100]; 2]);
    let (first, second) = (&mut Emulated::view_mut(&mut first), &mut Emulated::view_mut(&mut second));
    adamw(&last(), &mut Emulated::view_mut(&mut alone), &Emulated::view(&g), first, second, step).unwrap();
    assert_ne!(alone, w);
    same("adamw", large.end(100), &alone);

    // Two samples, the second of which begins past 2³¹.
    let mut dx = Reserved::<f32>::new(n);
    let (weight, seed, count) = ([0.5f32, 2.0], [3f32], [6f64]);
    let [weight, seed] = [&weight[..], &seed].map(Emulated::view);
    let (prediction, target, count) = (gradient.view(), large.view(), Emulated::view(&count));
    weighted_mse_dx(&last(), &prediction, &target, &weight, None, &seed, &count, &mut dx.view_mut(), [2, n / 2])
        .unwrap();
    same("weighted_mse_dx", dx.end(100), &g.iter().zip(&alone).map(|(p, t)| 2.0 * (p - t)).collect::<Vec<_>>());
}

#[test]
fn elements() {
    let (on, n) = (last(), PAST + 2 * NF4_BLOCK);
    let x = numbers(100, 1);
    let mut large = Reserved::ending_in(n, &x);
    scale(&on, &mut large.view_mut(), 2.0).unwrap();
    same("scale", large.end(100), &x.iter().map(|x| 2.0 * x).collect::<Vec<_>>());

    let (large, mut out) = (Reserved::ending_in(n, &x), Reserved::<bf16>::new(n));
    stochastic_round(&on, &large.view(), &mut out.view_mut(), 3, 0).unwrap();
    let mut alone = [bf16::ZERO; 100];
    let start = (n - 100) as u64;
    stochastic_round(&on, &Emulated::view(&x), &mut Emulated::view_mut(&mut alone), 3, start).unwrap();
    same("stochastic_round", &floats(out.end(100)), &floats(&alone));
}

#[test]
fn quantised() {
    let on = last();
    let n = PAST + 2 * NF4_BLOCK;
    let codes: Vec<u8> = (0..NF4_BLOCK / 2).map(|i| (i * 37 % 256) as u8).collect();
    let (large, scales) = (Reserved::ending_in(n / 2, &codes), Reserved::ending_in(n / NF4_BLOCK, &[3f32]));
    let mut out = Reserved::<f32>::new(n);
    nf4(&on, &large.view(), &scales.view(), &Emulated::view(&NF4), &mut out.view_mut()).unwrap();
    let values = codes.iter().flat_map(|code| [code >> 4, code & 15]).map(|code| 3.0 * NF4[usize::from(code)]);
    same("nf4", out.end(NF4_BLOCK), &values.collect::<Vec<_>>());

    let data: Vec<i8> = (0..DIM).map(|i| (i * 37 % 255) as u8 as i8).collect();
    let (large, scales) = (Reserved::ending_in(ROWS * DIM, &data), Reserved::ending_in(ROWS, &[0.5f32]));
    let mut out = Reserved::<f32>::new(ROWS * DIM);
    int8_rows(&on, &large.view(), &scales.view(), &mut out.view_mut(), [ROWS, DIM]).unwrap();
    same("int8_rows", out.end(DIM), &data.iter().map(|&q| 0.5 * f32::from(q)).collect::<Vec<_>>());
}
