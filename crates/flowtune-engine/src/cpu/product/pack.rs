//! The right matrix in the order in which a kernel reads it: panels of [`NR`] columns, in each the words of k one after
//! the other, `[words, NR]`. What is missing at the ends is zero.

use std::ops::Range;

use super::Made;
use super::kernel::NR;
use crate::cpu::mat::Mat;

/// An element of the right matrix.
pub(crate) trait Packed: bytemuck::Pod + Send + Sync {
    /// Elements in a word.
    const PER_WORD: usize;
    /// The word of these elements, of which there may be fewer than [`Packed::PER_WORD`].
    fn word(elements: impl Iterator<Item = Self>) -> u32;
}

macro_rules! packed {
    ($type:ty, $bits:ty) => {
        impl Packed for $type {
            const PER_WORD: usize = 4 / size_of::<$type>();
            #[inline(always)]
            fn word(elements: impl Iterator<Item = Self>) -> u32 {
                let bits =
                    |(i, x): (usize, Self)| u32::from(bytemuck::cast::<_, $bits>(x)) << (8 * size_of::<$type>() * i);
                elements.take(Self::PER_WORD).enumerate().map(bits).fold(0, |word, bits| word | bits)
            }
        }
    };
}
packed!(f32, u32);
packed!(half::bf16, u16);
packed!(i8, u8);

/// Words of `k` elements.
pub(super) fn words<T: Packed>(k: usize) -> usize {
    k.div_ceil(T::PER_WORD)
}

/// Packs rows `k` and columns `cols` of `b` into `out`, of which there are `panels · words · NR` words.
#[inline(always)]
pub(super) fn pack<T: Packed>(b: &Mat<T>, k: Range<usize>, cols: Range<usize>, out: &mut [u32]) {
    let size = words::<T>(k.len()) * NR;
    let panels = cols.len().div_ceil(NR);
    let out = &mut out[..panels * size];
    let columns = |p: usize| {
        let first = cols.start + p * NR;
        (first, NR.min(cols.end - first))
    };
    if columns(panels - 1).1 < NR {
        out[(panels - 1) * size..].fill(0);
    }
    if b.is_row_major() {
        // Word by word over all panels: what lies side by side is read so.
        for (w, at) in k.clone().step_by(T::PER_WORD).enumerate() {
            let elements = at..(at + T::PER_WORD).min(k.end);
            fetch_ahead(b, elements.clone(), k.end, cols.clone());
            for p in 0..panels {
                let (first, count) = columns(p);
                interleave(b, elements.clone(), first, &mut out[p * size + w * NR..][..count]);
            }
        }
    } else {
        for (p, panel) in out.chunks_exact_mut(size).enumerate() {
            let (first, count) = columns(p);
            transpose(b, k.clone(), first, count, panel);
        }
    }
}

/// Asks for what [`pack`] reads after rows `k`: a few lines of each row, too few for a processor to see where they lead.
#[inline(always)]
fn fetch_ahead<T: Packed>(b: &Mat<T>, k: Range<usize>, end: usize, cols: Range<usize>) {
    const ROWS: usize = 16;
    #[cfg(target_arch = "x86_64")]
    for row in k.map(|row| row + ROWS).take_while(|&row| row < end) {
        for line in b.row(row)[cols.clone()].chunks(64 / size_of::<T>()) {
            // SAFETY: an address that may be read.
            unsafe { std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(line.as_ptr().cast()) };
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (b, k, end, cols, ROWS);
}

/// As [`pack`], of a matrix that is made here.
#[inline(always)]
pub(super) fn pack_made<T: Packed>(b: &dyn Made<T>, k: Range<usize>, cols: Range<usize>, out: &mut [u32]) {
    let words = words::<T>(k.len());
    let mut rows = Vec::new();
    for (p, panel) in out.chunks_exact_mut(words * NR).take(cols.len().div_ceil(NR)).enumerate() {
        let first = cols.start + p * NR;
        let cols = first..(first + NR).min(cols.end);
        panel.fill(0);
        if T::PER_WORD == 1 {
            b.write(k.clone(), cols, bytemuck::cast_slice_mut(panel), NR);
        } else {
            rows.clear();
            rows.resize(k.len() * NR, T::zeroed());
            b.write(k.clone(), cols, &mut rows, NR);
            pack(&Mat::new(&rows, k.len(), NR), 0..k.len(), 0..NR, panel);
        }
    }
}

/// Columns are adjacent: a word of each is made of elements `k` of several rows, from column `first` on.
#[inline(always)]
fn interleave<T: Packed>(b: &Mat<T>, k: Range<usize>, first: usize, out: &mut [u32]) {
    let count = out.len();
    let row = |i: usize| &b.row(k.start + i)[first..][..count];
    match (T::PER_WORD, k.len() == T::PER_WORD) {
        (1, true) => out.copy_from_slice(bytemuck::cast_slice(row(0))),
        (2, true) => {
            let (r0, r1): (&[u16], &[u16]) = (bytemuck::cast_slice(row(0)), bytemuck::cast_slice(row(1)));
            for j in 0..count {
                out[j] = u32::from(r0[j]) | u32::from(r1[j]) << 16;
            }
        }
        (4, true) => {
            let rows = [0, 1, 2, 3].map(|i| bytemuck::cast_slice::<T, u8>(row(i)));
            let mut done = 0;
            #[cfg(target_arch = "x86_64")]
            if is_x86_feature_detected!("avx512bw") {
                while done + 64 <= count {
                    let rows = rows.map(|row| row[done..].first_chunk().unwrap_or(&[0; 64]));
                    // SAFETY: AVX-512 is there.
                    unsafe { x86::interleave64(rows, &mut out[done..]) };
                    done += 64;
                }
            }
            #[cfg(target_arch = "x86_64")]
            while done + 16 <= count {
                x86::interleave16(rows.map(|row| row[done..].first_chunk().unwrap_or(&[0; 16])), &mut out[done..]);
                done += 16;
            }
            for j in done..count {
                out[j] = u32::from_le_bytes(rows.map(|row| row[j]));
            }
        }
        _ => {
            for (j, out) in out.iter_mut().enumerate() {
                *out = T::word(k.clone().map(|k| b.row(k)[first + j]));
            }
        }
    }
}

/// k is adjacent: words are as they lie, and change places.
#[inline(always)]
fn transpose<T: Packed>(b: &Mat<T>, k: Range<usize>, first: usize, count: usize, panel: &mut [u32]) {
    const SIDE: usize = 16;
    let whole = k.len() / T::PER_WORD;
    let column = |j: usize| &b.column(first + j)[k.clone()];
    let mut done = 0;
    #[cfg(target_arch = "x86_64")]
    if count == NR && is_x86_feature_detected!("avx512f") {
        done = whole / SIDE * SIDE;
        let bytes = b.col_stride() * size_of::<T>();
        // Sixteen columns from end to end: as many streams as a processor sees coming.
        for left in (0..NR).step_by(SIDE) {
            let (source, last) = (column(left).as_ptr().cast::<u8>(), column(left + SIDE - 1));
            assert!(done * T::PER_WORD <= last.len() && (done * NR) <= panel.len());
            for w in (0..done).step_by(SIDE) {
                // SAFETY: AVX-512 is there; the columns hold `done` words, as was checked of the first and the last, and
                // so many rows of the panel are there.
                unsafe { x86::transpose16(source.add(4 * w), bytes, panel.as_mut_ptr().add(w * NR + left), NR) };
            }
        }
    }
    for j in 0..count {
        let words = column(j)[done * T::PER_WORD..].chunks(T::PER_WORD);
        for (out, word) in panel[done * NR..].chunks_exact_mut(NR).zip(words) {
            out[j] = T::word(word.iter().copied());
        }
    }
}

/// Rows of columns: columns `k..k + 16` of `a`, from row `first` on, become columns `k..k + 16` of 16 rows of `width`. Whether
/// the processor has done so; elements must be words.
#[inline(always)]
pub(super) fn turn_words<T: bytemuck::Pod>(a: &Mat<T>, first: usize, k: usize, out: &mut [T], width: usize) -> bool {
    const SIDE: usize = 16;
    #[cfg(target_arch = "x86_64")]
    if size_of::<T>() == 4 && is_x86_feature_detected!("avx512f") {
        let (source, _last) = (&a.column(k)[first..][..SIDE], &a.column(k + SIDE - 1)[first..][..SIDE]);
        let target = &mut out[k..][..(SIDE - 1) * width + SIDE];
        // SAFETY: AVX-512 is there; the slices were checked to hold 16 words, the first and the last column and so all
        // between, and the target 16 rows.
        unsafe { x86::transpose16(source.as_ptr().cast(), 4 * a.col_stride(), target.as_mut_ptr().cast(), width) };
        return true;
    }
    let _ = (a, first, k, out, width, SIDE);
    false
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    /// Words of the bytes of four rows, as a transpose of 4 × 16 bytes.
    #[inline(always)]
    pub(super) fn interleave16(rows: [&[u8; 16]; 4], out: &mut [u32]) {
        let out = &mut out[..16];
        // SAFETY: SSE2 is part of x86-64; all loads and stores are of 16 bytes in arrays of that size.
        unsafe {
            let [r0, r1, r2, r3] = rows.map(|row| _mm_loadu_si128(row.as_ptr().cast()));
            let (low01, high01) = (_mm_unpacklo_epi8(r0, r1), _mm_unpackhi_epi8(r0, r1));
            let (low23, high23) = (_mm_unpacklo_epi8(r2, r3), _mm_unpackhi_epi8(r2, r3));
            let words = [
                _mm_unpacklo_epi16(low01, low23),
                _mm_unpackhi_epi16(low01, low23),
                _mm_unpacklo_epi16(high01, high23),
                _mm_unpackhi_epi16(high01, high23),
            ];
            for (out, words) in out.chunks_exact_mut(4).zip(words) {
                _mm_storeu_si128(out.as_mut_ptr().cast(), words);
            }
        }
    }

    /// As [`interleave16`], of 64 columns.
    ///
    /// # Safety
    /// AVX-512 is there.
    #[target_feature(enable = "avx512f,avx512bw")]
    pub(super) unsafe fn interleave64(rows: [&[u8; 64]; 4], out: &mut [u32]) {
        let out = &mut out[..64];
        // SAFETY: loads and stores are of 64 bytes in arrays of that size.
        unsafe {
            let [r0, r1, r2, r3] = rows.map(|row| _mm512_loadu_si512(row.as_ptr().cast()));
            let (low01, high01) = (_mm512_unpacklo_epi8(r0, r1), _mm512_unpackhi_epi8(r0, r1));
            let (low23, high23) = (_mm512_unpacklo_epi8(r2, r3), _mm512_unpackhi_epi8(r2, r3));
            // Lane l of `quads[i]` holds columns 16·l + 4·i to 16·l + 4·i + 3.
            let quads = [
                _mm512_unpacklo_epi16(low01, low23),
                _mm512_unpackhi_epi16(low01, low23),
                _mm512_unpacklo_epi16(high01, high23),
                _mm512_unpackhi_epi16(high01, high23),
            ];
            let even = |a, b| _mm512_shuffle_i32x4::<0x88>(a, b);
            let odd = |a, b| _mm512_shuffle_i32x4::<0xdd>(a, b);
            let (e0, e1) = (even(quads[0], quads[1]), even(quads[2], quads[3]));
            let (o0, o1) = (odd(quads[0], quads[1]), odd(quads[2], quads[3]));
            let words = [even(e0, e1), even(o0, o1), odd(e0, e1), odd(o0, o1)];
            for (out, words) in out.chunks_exact_mut(16).zip(words) {
                _mm512_storeu_si512(out.as_mut_ptr().cast(), words);
            }
        }
    }

    /// 16 rows of 16 words, `bytes` apart, to 16 columns, `stride` words apart.
    ///
    /// # Safety
    /// AVX-512 is there; 16 words can be read from each row of the source, and written to 16 rows of the target.
    #[target_feature(enable = "avx512f")]
    pub(super) unsafe fn transpose16(source: *const u8, bytes: usize, target: *mut u32, stride: usize) {
        // SAFETY: as the caller promised.
        unsafe {
            let mut r = [_mm512_setzero_si512(); 16];
            for (i, r) in r.iter_mut().enumerate() {
                *r = _mm512_loadu_si512(source.add(i * bytes).cast());
            }
            let mut pairs = [_mm512_setzero_si512(); 16];
            for i in 0..8 {
                pairs[2 * i] = _mm512_unpacklo_epi32(r[2 * i], r[2 * i + 1]);
                pairs[2 * i + 1] = _mm512_unpackhi_epi32(r[2 * i], r[2 * i + 1]);
            }
            // Quads: lane l of quads[4·i + c] is column 4·l + c of rows 4·i to 4·i + 3.
            let mut quads = [_mm512_setzero_si512(); 16];
            for i in (0..16).step_by(4) {
                quads[i] = _mm512_unpacklo_epi64(pairs[i], pairs[i + 2]);
                quads[i + 1] = _mm512_unpackhi_epi64(pairs[i], pairs[i + 2]);
                quads[i + 2] = _mm512_unpacklo_epi64(pairs[i + 1], pairs[i + 3]);
                quads[i + 3] = _mm512_unpackhi_epi64(pairs[i + 1], pairs[i + 3]);
            }
            for c in 0..4 {
                let even = |a, b| _mm512_shuffle_i32x4::<0x88>(a, b);
                let odd = |a, b| _mm512_shuffle_i32x4::<0xdd>(a, b);
                let (e0, e1) = (even(quads[c], quads[4 + c]), even(quads[8 + c], quads[12 + c]));
                let (o0, o1) = (odd(quads[c], quads[4 + c]), odd(quads[8 + c], quads[12 + c]));
                let store = |column: usize, words| _mm512_storeu_si512(target.add(column * stride).cast(), words);
                store(c, even(e0, e1));
                store(4 + c, even(o0, o1));
                store(8 + c, odd(e0, e1));
                store(12 + c, odd(o0, o1));
            }
        }
    }
}
