//! The innermost loops: a tile of the product, from rows of the left matrix where they lie and a packed panel of the
//! right one. Both are read in words of 32 bits: one f32, two bf16 or four int8 that are adjacent along k.

use crate::cpu::mat::Write;

/// Rows of a tile. Few, because rows that lie a multiple of 4 KiB apart, as those of most models do, share one set of
/// eight lines in the first cache.
pub(super) const MR: usize = 6;
/// Columns of a tile.
pub(super) const NR: usize = 64;
/// Columns that kernels compute together, and leave out together where a panel has fewer than [`NR`].
const BAND: usize = 16;

/// Sums of a tile, row-major: f32, or i32 for int8.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(crate) struct Tile([u32; MR * NR]);

impl Tile {
    pub(super) const ZERO: Self = Self([0; MR * NR]);

    /// The sums of row `r`.
    #[inline(always)]
    fn row<S: bytemuck::Pod>(&self, r: usize) -> &[S] {
        bytemuck::cast_slice(&self.0[r * NR..][..NR])
    }

    /// As [`Tile::row`].
    #[inline(always)]
    pub(super) fn row_mut<S: bytemuck::Pod>(&mut self, r: usize) -> &mut [S] {
        bytemuck::cast_slice_mut(&mut self.0[r * NR..][..NR])
    }
}

/// tile = A·B over `words` words of k, or tile += A·B where `write` says so. A: [`MR`] rows of words, `row_bytes` apart;
/// B: `[words, NR]` words, of which the first `cols` columns count: the others of the tile stay, or become, anything.
///
/// # Safety
/// The processor has the kernel's instructions, A's rows and B are readable over `words` words; `cols` is at most [`NR`].
pub(crate) type Kernel =
    unsafe fn(words: usize, a: *const u8, row_bytes: usize, b: *const u32, cols: usize, tile: &mut Tile, write: Write);

/// A kernel under the name of its instructions.
pub(crate) type Named = (&'static str, Kernel);

/// The kernels that this machine can run, fastest first.
pub(super) fn f32_kernels() -> Vec<Named> {
    let mut kernels: Vec<Named> = Vec::new();
    #[cfg(target_arch = "x86_64")]
    {
        if is_x86_feature_detected!("avx512f") {
            kernels.push(("avx512", x86::f32_avx512));
        }
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            kernels.push(("avx2", x86::f32_avx2));
        }
    }
    kernels.push(("portable", f32_portable));
    kernels
}

/// As [`f32_kernels`].
pub(super) fn bf16_kernels() -> Vec<Named> {
    let mut kernels: Vec<Named> = Vec::new();
    #[cfg(target_arch = "x86_64")]
    {
        if is_x86_feature_detected!("avx512bf16") && is_x86_feature_detected!("avx512f") {
            kernels.push(("avx512bf16", x86::bf16_avx512bf16));
        }
        if is_x86_feature_detected!("avx512f") {
            kernels.push(("avx512", x86::bf16_avx512));
        }
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            kernels.push(("avx2", x86::bf16_avx2));
        }
    }
    kernels.push(("portable", bf16_portable));
    kernels
}

/// As [`f32_kernels`]; A is unsigned, B signed.
pub(super) fn int8_kernels() -> Vec<Named> {
    let mut kernels: Vec<Named> = Vec::new();
    #[cfg(target_arch = "x86_64")]
    {
        if is_x86_feature_detected!("avx512vnni") && is_x86_feature_detected!("avx512f") {
            kernels.push(("avx512vnni", x86::int8_avx512vnni));
        }
        if is_x86_feature_detected!("avx2") {
            kernels.push(("avx2", x86::int8_avx2));
        }
    }
    kernels.push(("portable", int8_portable));
    kernels
}

/// For any processor: `multiply` adds the product of two words to a sum. As many sums at a time as the compiler keeps in
/// vector registers.
///
/// # Safety
/// As [`Kernel`].
#[inline(always)]
unsafe fn portable<S: bytemuck::Pod>(
    words: usize,
    a: *const u8,
    row_bytes: usize,
    b: *const u32,
    cols: usize,
    tile: &mut Tile,
    write: Write,
    multiply: impl Fn(u32, u32, &mut S),
) {
    const ROWS: usize = 3;
    if write == Write::Set {
        *tile = Tile::ZERO;
    }
    for (top, left) in (0..MR).step_by(ROWS).flat_map(|top| (0..cols).step_by(BAND).map(move |left| (top, left))) {
        let mut sums: [[S; BAND]; ROWS] = std::array::from_fn(|r| std::array::from_fn(|j| tile.row(top + r)[left + j]));
        for w in 0..words {
            // SAFETY: the caller's rows and panel are readable over `words` words.
            let (x, b) = unsafe {
                let at = a.wrapping_add(top * row_bytes + 4 * w);
                let x: [u32; ROWS] =
                    std::array::from_fn(|r| at.wrapping_add(r * row_bytes).cast::<u32>().read_unaligned());
                (x, &*b.add(w * NR + left).cast::<[u32; BAND]>())
            };
            for (sums, x) in sums.iter_mut().zip(x) {
                for j in 0..BAND {
                    multiply(x, b[j], &mut sums[j]);
                }
            }
        }
        for (r, sums) in sums.iter().enumerate() {
            tile.row_mut(top + r)[left..][..BAND].copy_from_slice(sums);
        }
    }
}

/// a·b + c, fused where that is an instruction: elsewhere it would be a call.
#[inline(always)]
fn fused(a: f32, b: f32, c: f32) -> f32 {
    if cfg!(any(target_arch = "aarch64", target_feature = "fma")) { a.mul_add(b, c) } else { a * b + c }
}

macro_rules! portable {
    ($name:ident, $multiply:expr) => {
        /// # Safety
        /// As [`Kernel`].
        unsafe fn $name(
            words: usize,
            a: *const u8,
            row_bytes: usize,
            b: *const u32,
            cols: usize,
            tile: &mut Tile,
            write: Write,
        ) {
            // SAFETY: passed on.
            unsafe { portable(words, a, row_bytes, b, cols, tile, write, $multiply) }
        }
    };
}

portable!(f32_portable, |a, b, sum: &mut f32| *sum = fused(f32::from_bits(a), f32::from_bits(b), *sum));
portable!(bf16_portable, |a, b, sum: &mut f32| {
    let wide = |word: u32| [f32::from_bits(word << 16), f32::from_bits(word & 0xffff_0000)];
    let (a, b) = (wide(a), wide(b));
    *sum = fused(a[1], b[1], fused(a[0], b[0], *sum));
});
portable!(int8_portable, |a, b, sum: &mut i32| {
    let (a, b) = (a.to_le_bytes(), b.to_le_bytes());
    for i in 0..4 {
        *sum += i32::from(a[i]) * i32::from(b[i] as i8);
    }
});

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::{BAND, MR, NR, Tile, Write};
    use std::arch::x86_64::*;

    /// As many bands of the tile as count, all four in 24 registers; `dot` adds A's word times B's words to the sums.
    macro_rules! avx512 {
        ($name:ident, $features:literal, |$x:ident, $b:ident, $sum:ident| $dot:expr) => {
            /// # Safety
            /// As [`super::Kernel`].
            #[target_feature(enable = $features)]
            pub(super) unsafe fn $name(
                words: usize,
                a: *const u8,
                row_bytes: usize,
                b: *const u32,
                cols: usize,
                tile: &mut Tile,
                write: Write,
            ) {
                /// # Safety
                /// As [`super::Kernel`].
                #[target_feature(enable = $features)]
                unsafe fn bands<const BANDS: usize>(
                    words: usize,
                    a: *const u8,
                    row_bytes: usize,
                    b: *const u32,
                    tile: &mut Tile,
                    write: Write,
                ) {
                    let sums = tile.0.as_mut_ptr();
                    // SAFETY: the caller's rows and panel are readable over `words` words; the tile is MR·NR words.
                    unsafe {
                        let mut c = [[_mm512_setzero_si512(); BANDS]; MR];
                        if write == Write::Add {
                            for r in 0..MR {
                                for h in 0..BANDS {
                                    c[r][h] = _mm512_load_si512(sums.add(r * NR + BAND * h).cast());
                                }
                            }
                        }
                        let (mut a, mut b) = (a, b);
                        for _ in 0..words {
                            let mut panel = [_mm512_setzero_si512(); BANDS];
                            for h in 0..BANDS {
                                panel[h] = _mm512_loadu_si512(b.add(BAND * h).cast());
                            }
                            for r in 0..MR {
                                let word = a.wrapping_add(r * row_bytes).cast::<i32>().read_unaligned();
                                let $x = _mm512_set1_epi32(word);
                                for h in 0..BANDS {
                                    let ($b, $sum) = (panel[h], c[r][h]);
                                    c[r][h] = $dot;
                                }
                            }
                            a = a.add(4);
                            b = b.add(NR);
                        }
                        for r in 0..MR {
                            for h in 0..BANDS {
                                _mm512_store_si512(sums.add(r * NR + BAND * h).cast(), c[r][h]);
                            }
                        }
                    }
                }
                // SAFETY: passed on.
                unsafe {
                    match cols.div_ceil(BAND) {
                        1 => bands::<1>(words, a, row_bytes, b, tile, write),
                        2 => bands::<2>(words, a, row_bytes, b, tile, write),
                        3 => bands::<3>(words, a, row_bytes, b, tile, write),
                        _ => bands::<4>(words, a, row_bytes, b, tile, write),
                    }
                }
            }
        };
    }

    avx512!(f32_avx512, "avx512f", |x, b, sum| {
        let sum = _mm512_fmadd_ps(_mm512_castsi512_ps(x), _mm512_castsi512_ps(b), _mm512_castsi512_ps(sum));
        _mm512_castps_si512(sum)
    });
    avx512!(bf16_avx512bf16, "avx512f,avx512bf16", |x, b, sum| {
        // The same bits under the name of a vector of bf16.
        let pairs = |words: __m512i| std::mem::transmute::<__m512i, __m512bh>(words);
        _mm512_castps_si512(_mm512_dpbf16_ps(_mm512_castsi512_ps(sum), pairs(x), pairs(b)))
    });
    avx512!(bf16_avx512, "avx512f", |x, b, sum| {
        // The halves of a word, each as the f32 that begins with it.
        let high = |words| _mm512_castsi512_ps(_mm512_and_si512(words, _mm512_set1_epi32(0xffff_0000_u32 as i32)));
        let low = |words| _mm512_castsi512_ps(_mm512_slli_epi32::<16>(words));
        let sum = _mm512_fmadd_ps(low(x), low(b), _mm512_castsi512_ps(sum));
        _mm512_castps_si512(_mm512_fmadd_ps(high(x), high(b), sum))
    });
    avx512!(int8_avx512vnni, "avx512f,avx512vnni", |x, b, sum| _mm512_dpbusd_epi32(sum, x, b));

    /// One band after the other, in 12 registers each.
    macro_rules! avx2 {
        ($name:ident, $features:literal, |$x:ident, $b:ident, $sum:ident| $dot:expr) => {
            /// # Safety
            /// As [`super::Kernel`].
            #[target_feature(enable = $features)]
            pub(super) unsafe fn $name(
                words: usize,
                a: *const u8,
                row_bytes: usize,
                b: *const u32,
                cols: usize,
                tile: &mut Tile,
                write: Write,
            ) {
                for left in (0..cols).step_by(BAND) {
                    // SAFETY: the caller's rows and panel are readable over `words` words; the tile is MR·NR words.
                    unsafe {
                        let sums = tile.0.as_mut_ptr().add(left);
                        let mut c = [[_mm256_setzero_si256(); 2]; MR];
                        if write == Write::Add {
                            for r in 0..MR {
                                for h in 0..2 {
                                    c[r][h] = _mm256_load_si256(sums.add(r * NR + 8 * h).cast());
                                }
                            }
                        }
                        let (mut a, mut b) = (a, b.add(left));
                        for _ in 0..words {
                            let b0 = _mm256_loadu_si256(b.cast());
                            let b1 = _mm256_loadu_si256(b.add(8).cast());
                            for r in 0..MR {
                                let word = a.wrapping_add(r * row_bytes).cast::<i32>().read_unaligned();
                                let $x = _mm256_set1_epi32(word);
                                let ($b, $sum) = (b0, c[r][0]);
                                c[r][0] = $dot;
                                let ($b, $sum) = (b1, c[r][1]);
                                c[r][1] = $dot;
                            }
                            a = a.add(4);
                            b = b.add(NR);
                        }
                        for r in 0..MR {
                            for h in 0..2 {
                                _mm256_store_si256(sums.add(r * NR + 8 * h).cast(), c[r][h]);
                            }
                        }
                    }
                }
            }
        };
    }

    avx2!(f32_avx2, "avx2,fma", |x, b, sum| {
        let sum = _mm256_fmadd_ps(_mm256_castsi256_ps(x), _mm256_castsi256_ps(b), _mm256_castsi256_ps(sum));
        _mm256_castps_si256(sum)
    });
    avx2!(bf16_avx2, "avx2,fma", |x, b, sum| {
        let high = |words| _mm256_castsi256_ps(_mm256_and_si256(words, _mm256_set1_epi32(0xffff_0000_u32 as i32)));
        let low = |words| _mm256_castsi256_ps(_mm256_slli_epi32::<16>(words));
        let sum = _mm256_fmadd_ps(low(x), low(b), _mm256_castsi256_ps(sum));
        _mm256_castps_si256(_mm256_fmadd_ps(high(x), high(b), sum))
    });
    avx2!(int8_avx2, "avx2", |x, b, sum| {
        // Bytes 0 and 2, then 1 and 3, as 16 bits: a product of unsigned and signed bytes and the sum of two fit in 32.
        let low = _mm256_set1_epi32(0x00ff_00ff);
        let (x0, x1) = (_mm256_and_si256(x, low), _mm256_srli_epi16::<8>(x));
        let (b0, b1) = (_mm256_srai_epi16::<8>(_mm256_slli_epi16::<8>(b)), _mm256_srai_epi16::<8>(b));
        _mm256_add_epi32(sum, _mm256_add_epi32(_mm256_madd_epi16(x0, b0), _mm256_madd_epi16(x1, b1)))
    });
}
