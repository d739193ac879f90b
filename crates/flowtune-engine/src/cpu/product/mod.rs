//! Products of matrices in f32, bf16 and int8: one driver, one packing, a kernel for each kind of processor.
//!
//! The left matrix (activations) is read where it lies; only the right one (weights, mostly) is packed, a piece at a time
//! into a buffer that stays in cache. Sums are f32 (i32 for int8) in registers over all of k and leave them once, so a
//! product may have several terms — a weight and its low-rank addition — at no cost. The order of summation does not
//! depend on the threads.

mod kernel;
mod pack;

use std::cell::RefCell;
use std::ops::Range;
use std::sync::LazyLock;

use half::bf16;

use crate::cpu::mat::{Mat, MatMut, Threads, Write};
use crate::cpu::memory;
use crate::cpu::parallel;
use crate::cpu::simd::vectorised;
use crate::dtype::Stored;
use kernel::{Kernel, MR, NR, Named, Tile};
pub(crate) use pack::Packed;

/// What is multiplied with what.
pub(crate) trait Kind: 'static {
    /// Elements of the left matrix.
    type Left: bytemuck::Pod + Send + Sync;
    /// Elements of the right matrix, of the same size.
    type Right: Packed;
    /// Sums.
    type Sum: bytemuck::Pod;
    /// The kernels of this machine, fastest first.
    fn kernels() -> &'static [Named];
}

macro_rules! kind {
    ($(#[$doc:meta])* $name:ident, $left:ty, $right:ty, $sum:ty, $kernels:ident) => {
        $(#[$doc])*
        pub(crate) struct $name;

        impl Kind for $name {
            type Left = $left;
            type Right = $right;
            type Sum = $sum;
            fn kernels() -> &'static [Named] {
                static KERNELS: LazyLock<Vec<Named>> = LazyLock::new(kernel::$kernels);
                &KERNELS
            }
        }
    };
}
kind!(
    /// f32 · f32.
    F32, f32, f32, f32, f32_kernels
);
kind!(
    /// bf16 · bf16, summed in f32.
    Bf16, bf16, bf16, f32, bf16_kernels
);
kind!(
    /// Unsigned · signed bytes, summed in i32.
    Int8, u8, i8, i32, int8_kernels
);

/// a·b.
#[derive(Clone, Copy)]
pub(crate) struct Term<'a, L, R> {
    /// `[m, k]`.
    pub(crate) a: Mat<'a, L>,
    /// `[k, n]`.
    pub(crate) b: Right<'a, R>,
}

/// The right matrix of a product.
#[derive(Clone, Copy)]
pub(crate) enum Right<'a, R> {
    /// As it lies; packed piece by piece.
    Mat(Mat<'a, R>),
    /// Packed before, for several products.
    Panels(&'a Panels<'a, R>),
    /// Made where it is packed.
    Made(&'a dyn Made<R>),
}

/// A right matrix that is never written down: its elements are made from something smaller.
pub(crate) trait Made<R>: Sync {
    /// Rows, columns.
    fn extents(&self) -> (usize, usize);
    /// Writes what is not zero of rows `k` and columns `cols` to `out`, which is zero, its rows `stride` apart.
    fn write(&self, k: Range<usize>, cols: Range<usize>, out: &mut [R], stride: usize);
}

impl<'a, R> From<Mat<'a, R>> for Right<'a, R> {
    fn from(mat: Mat<'a, R>) -> Self {
        Self::Mat(mat)
    }
}

impl<'a, R> From<&'a Panels<'a, R>> for Right<'a, R> {
    fn from(panels: &'a Panels<'a, R>) -> Self {
        Self::Panels(panels)
    }
}

impl<R> Right<'_, R> {
    /// Columns.
    pub(crate) fn cols(&self) -> usize {
        self.extents().1
    }

    fn extents(&self) -> (usize, usize) {
        match self {
            Self::Mat(mat) | Self::Panels(Panels { mat, .. }) => (mat.rows(), mat.cols()),
            Self::Made(made) => made.extents(),
        }
    }
}

/// A right matrix that several products share, packed once.
pub(crate) struct Panels<'a, R> {
    pub(crate) mat: Mat<'a, R>,
    words: Vec<u32>,
}

impl<'a, R> Panels<'a, R> {
    /// Of a type that is not packed.
    pub(crate) fn as_it_is(mat: Mat<'a, R>) -> Self {
        Self { mat, words: Vec::new() }
    }
}

impl<'a, R: Packed> Panels<'a, R> {
    /// Packs `mat`.
    pub(crate) fn packed(mat: Mat<'a, R>) -> Self {
        let size = pack::words::<R>(mat.rows()) * NR;
        let mut words = memory::unfilled(mat.cols().div_ceil(NR) * size);
        vectorised(
            #[inline(always)]
            || pack::pack(&mat, 0..mat.rows(), 0..mat.cols(), &mut words),
        );
        Self { mat, words }
    }

    /// Panel `p` from element `k` on.
    #[inline(always)]
    fn from(&self, p: usize, k: usize) -> &[u32] {
        let size = pack::words::<R>(self.mat.rows()) * NR;
        &self.words[p * size..][..size][k / R::PER_WORD * NR..]
    }
}

type TermOf<'a, K> = Term<'a, <K as Kind>::Left, <K as Kind>::Right>;

/// Columns of one piece of work: four panels.
const NC: usize = 128;
/// Words of the right matrix that are packed at a time: half of a megabyte, to stay in the second-level cache.
const PACKED_WORDS: usize = 1 << 17;

/// c (+)= scale · Σ aᵢ·bᵢ.
pub(crate) fn product<K: Kind<Sum = f32>, O: Stored<Compute = f32>>(
    c: MatMut<O>,
    write: Write,
    scale: f32,
    terms: &[TermOf<K>],
    threads: Threads,
) {
    let operands = Operand::all::<K>(terms);
    assert_eq!((c.rows(), c.cols()), extents(&operands));
    sums_of(&operands, threads, &|i, cols, sums: &mut [f32]| {
        // SAFETY: each element of c belongs to one tile.
        let c = unsafe { c.row(i, cols) };
        match write {
            Write::Set => c.iter_mut().zip(sums).for_each(|(c, &mut s)| *c = O::store(scale * s)),
            Write::Add => c.iter_mut().zip(sums).for_each(|(c, &mut s)| *c = O::store(c.load() + scale * s)),
        }
    });
}

/// Σ aᵢ·bᵢ, handed to `emit` by rows of tiles: row, columns, sums.
pub(crate) fn sums<K: Kind>(
    terms: &[TermOf<K>],
    threads: Threads,
    emit: impl Fn(usize, Range<usize>, &[K::Sum]) + Sync,
) {
    sums_of(&Operand::all::<K>(terms), threads, &|i, cols, sums: &mut [K::Sum]| emit(i, cols, sums));
}

/// c = `settle`(Σ aᵢ·bᵢ) + Σ of `rest`, a product of one kind and of another in the same registers: `settle` makes the sums of
/// a row of a tile, in place, the bits of f32.
pub(crate) fn product_and_rest<K: Kind, R: Kind<Sum = f32>, O: Stored<Compute = f32>>(
    c: MatMut<O>,
    terms: &[TermOf<K>],
    settle: impl Fn(usize, Range<usize>, &mut [u32]) + Sync,
    rest: &[TermOf<R>],
    threads: Threads,
) {
    let mut operands = Operand::all::<K>(terms);
    let first = operands.len();
    operands.extend(Operand::all::<R>(rest));
    assert_eq!((c.rows(), c.cols()), extents(&operands));
    Product::of(&operands, Some(first)).run(threads, &settle, &|i, cols, sums| {
        // SAFETY: each element of c belongs to one tile.
        let c = unsafe { c.row(i, cols) };
        c.iter_mut().zip(sums).for_each(|(c, &mut s)| *c = O::store(f32::from_bits(s)));
    });
}

fn sums_of<S: bytemuck::Pod>(
    operands: &[Operand],
    threads: Threads,
    emit: &(impl Fn(usize, Range<usize>, &mut [S]) + Sync),
) {
    Product::of(operands, None)
        .run(threads, &|_, _, _| (), &|i, cols, sums| emit(i, cols, bytemuck::cast_slice_mut(sums)));
}

/// Rows and columns of a product.
fn extents(operands: &[Operand]) -> (usize, usize) {
    let (m, n) = operands.first().map_or((0, 0), |of| (of.rows, of.right.extents().1));
    for of in operands {
        assert_eq!((of.rows, (of.k, n)), (m, of.right.extents()));
    }
    (m, n)
}

/// A term of any kind.
struct Operand<'a> {
    kernel: Kernel,
    rows: usize,
    k: usize,
    left: Left<'a>,
    right: &'a dyn InPanels,
}

impl<'a> Operand<'a> {
    fn all<K: Kind>(terms: &'a [TermOf<'a, K>]) -> Vec<Self> {
        terms.iter().map(|term| Self::of::<K>(K::kernels()[0].1, term)).collect()
    }

    fn of<K: Kind>(kernel: Kernel, Term { a, b }: &'a TermOf<'a, K>) -> Self {
        Self { kernel, rows: a.rows(), k: a.cols(), left: Left::of(a, K::Right::PER_WORD), right: b }
    }
}

/// A right matrix of any elements.
trait InPanels: Sync {
    /// Rows and columns.
    fn extents(&self) -> (usize, usize);
    /// Elements of k in a word.
    fn per_word(&self) -> usize;
    /// Panels from column `col` on, from row `k` on: where they were packed before.
    fn packed(&self, col: usize, k: usize) -> Option<&[u32]>;
    /// Packs rows `k` and columns `cols`, unless they were packed before.
    fn pack(&self, k: Range<usize>, cols: Range<usize>, out: &mut [u32]);
}

impl<R: Packed> InPanels for Right<'_, R> {
    fn extents(&self) -> (usize, usize) {
        Right::extents(self)
    }

    fn per_word(&self) -> usize {
        R::PER_WORD
    }

    fn packed(&self, col: usize, k: usize) -> Option<&[u32]> {
        match self {
            Self::Panels(panels) => Some(panels.from(col / NR, k)),
            Self::Mat(_) | Self::Made(_) => None,
        }
    }

    fn pack(&self, k: Range<usize>, cols: Range<usize>, out: &mut [u32]) {
        vectorised(
            #[inline(always)]
            || match self {
                Self::Mat(b) => pack::pack(b, k, cols, out),
                Self::Made(b) => pack::pack_made(*b, k, cols, out),
                Self::Panels(_) => {}
            },
        );
    }
}

/// A piece of one operand's k.
struct Segment {
    operand: usize,
    k: Range<usize>,
    /// Words of k.
    words: usize,
    /// Whether sums are settled after it.
    settles: bool,
}

/// Operands and in which pieces they are multiplied.
struct Product<'a> {
    operands: &'a [Operand<'a>],
    segments: Vec<Segment>,
    rows: usize,
    cols: usize,
}

impl<'a> Product<'a> {
    /// The sums of the operands before `settled` are settled.
    fn of(operands: &'a [Operand<'a>], settled: Option<usize>) -> Self {
        let (rows, cols) = extents(operands);
        let of_operand = |(operand, of): (usize, &Operand)| {
            let (k, per_word) = (of.k, of.right.per_word());
            let longest = PACKED_WORDS / NC * per_word;
            let pieces = (0..k).step_by(longest).map(move |start| start..(start + longest).min(k));
            let segment = |k: Range<usize>| Segment { operand, words: k.len().div_ceil(per_word), k, settles: false };
            pieces.map(segment).collect::<Vec<_>>()
        };
        let mut segments: Vec<Segment> = operands.iter().enumerate().flat_map(of_operand).collect();
        if let Some(last) = segments.iter_mut().rfind(|segment| settled.is_some_and(|first| segment.operand < first)) {
            last.settles = true;
        }
        Self { operands, segments, rows, cols }
    }

    fn run(
        &self,
        threads: Threads,
        settle: &(impl Fn(usize, Range<usize>, &mut [u32]) + Sync),
        emit: &(impl Fn(usize, Range<usize>, &mut [u32]) + Sync),
    ) {
        let (m, n) = (self.rows, self.cols);
        if m == 0 || n == 0 {
            return;
        }
        let serial = matches!(threads, Threads::One) || parallel::stays();
        let parts = if serial { 1 } else { row_parts(m, n) };
        let rows = m.div_ceil(MR).div_ceil(parts) * MR;
        let chunks = n.div_ceil(NC);
        let task = |i: usize| {
            let (part, chunk) = (i % parts, i / parts);
            let work = Work {
                product: self,
                rows: (part * rows).min(m)..((part + 1) * rows).min(m),
                cols: chunk * NC..((chunk + 1) * NC).min(n),
            };
            SCRATCH.with_borrow_mut(|scratch| {
                vectorised(
                    #[inline(always)]
                    || work.run(scratch, settle, emit),
                )
            });
        };
        match serial {
            true => (0..chunks).for_each(task),
            false => parallel::tasks(chunks * parts, task),
        }
    }
}

/// Into how many parts the rows are cut: one where there are columns enough for all threads, for each part packs the
/// columns anew.
fn row_parts(m: usize, n: usize) -> usize {
    const PIECES_PER_THREAD: usize = 2;
    const ROWS_WORTH_PACKING_FOR: usize = 96;
    let wanted = (PIECES_PER_THREAD * parallel::num_threads()).div_ceil(n.div_ceil(NC));
    wanted.clamp(1, (m / ROWS_WORTH_PACKING_FOR).max(1))
}

/// The left matrix with k adjacent and rows of whole words; a copy where it is not so.
enum Left<'a> {
    /// Its bytes from the first element on, those of an element, and those from row to row.
    AsItIs {
        bytes: &'a [u8],
        size: usize,
        row_bytes: usize,
    },
    Copy {
        words: Vec<u32>,
        size: usize,
        row_words: usize,
    },
}

impl<'a> Left<'a> {
    fn of<L: bytemuck::Pod + Send + Sync>(a: &Mat<'a, L>, per_word: usize) -> Self {
        let size = size_of::<L>();
        if a.is_row_major() && a.cols().is_multiple_of(per_word) {
            return Self::AsItIs { bytes: bytemuck::cast_slice(a.data()), size, row_bytes: a.row_stride() * size };
        }
        let row_words = a.cols().div_ceil(per_word);
        let mut words = vec![0u32; a.rows() * row_words];
        let width = row_words * per_word;
        parallel::rows(
            &mut words,
            SIDE * row_words,
            #[inline(always)]
            |block, rows| copy_rows(a, block * SIDE, bytemuck::cast_slice_mut(rows), width),
        );
        Self::Copy { words, size, row_words }
    }

    /// Where element `k` of row `i` is, and bytes from row to row.
    fn at(&self, i: usize, k: usize) -> (*const u8, usize) {
        match self {
            Self::AsItIs { bytes, size, row_bytes } => (bytes[i * row_bytes + k * size..].as_ptr(), *row_bytes),
            Self::Copy { words, size, row_words } => {
                (bytemuck::cast_slice::<u32, u8>(&words[i * row_words..])[k * size..].as_ptr(), row_words * 4)
            }
        }
    }
}

/// Side of the blocks in which a matrix is turned round.
pub(crate) const SIDE: usize = 16;

/// Rows of any matrix, from row `first` on, into rows of `width`.
#[inline(always)]
pub(crate) fn copy_rows<T: bytemuck::Pod>(a: &Mat<T>, first: usize, out: &mut [T], width: usize) {
    let (count, cols) = (out.len() / width, a.cols());
    let mut done = 0;
    // Where rows are adjacent, both sides of a block are read and written in lines of cache.
    if a.row_stride() == 1 && count == SIDE {
        for k in (0..cols / SIDE * SIDE).step_by(SIDE) {
            if pack::turn_words(a, first, k, out, width) {
                continue;
            }
            let block: [[T; SIDE]; SIDE] =
                std::array::from_fn(|i| *a.column(k + i)[first..].first_chunk().unwrap_or(&[T::zeroed(); SIDE]));
            for (i, row) in out.chunks_exact_mut(width).enumerate() {
                row[k..k + SIDE].copy_from_slice(&block.map(|line| line[i]));
            }
        }
        done = cols / SIDE * SIDE;
    }
    for (i, row) in out.chunks_exact_mut(width).enumerate() {
        for (k, out) in row[..cols].iter_mut().enumerate().skip(done) {
            *out = a.get(first + i, k);
        }
    }
}

/// Buffers of a thread, kept from product to product.
#[derive(Default)]
struct Scratch {
    packed: Vec<u32>,
    tiles: Vec<Tile>,
    last_rows: Vec<u32>,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// A block of the result.
struct Work<'a> {
    product: &'a Product<'a>,
    rows: Range<usize>,
    cols: Range<usize>,
}

impl Work<'_> {
    #[inline(always)]
    fn run(
        &self,
        scratch: &mut Scratch,
        settle: &impl Fn(usize, Range<usize>, &mut [u32]),
        emit: &impl Fn(usize, Range<usize>, &mut [u32]),
    ) {
        let panels = self.cols.len().div_ceil(NR);
        let batches = self.batches(panels);
        let tiles = self.rows.len().div_ceil(MR) * panels;
        let Scratch { packed, tiles: sums, last_rows } = scratch;
        sums.clear();
        // Sums wait here when k does not fit at once.
        sums.resize(if batches.len() > 1 { tiles } else { 1 }, Tile::ZERO);
        for (b, batch) in batches.iter().enumerate() {
            self.pack(batch, packed);
            let last = b + 1 == batches.len();
            for (r, i) in self.rows.clone().step_by(MR).enumerate() {
                let rows = i..(i + MR).min(self.rows.end);
                for panel in 0..panels {
                    let tile = &mut sums[if batches.len() == 1 { 0 } else { r * panels + panel }];
                    let write = if b == 0 { Write::Set } else { Write::Add };
                    self.tile(batch, &rows, panel, packed, last_rows, tile, write, settle);
                    if last {
                        self.by_rows(&rows, panel, tile, emit);
                    }
                }
            }
        }
    }

    /// Columns of a panel.
    #[inline(always)]
    fn columns(&self, panel: usize) -> Range<usize> {
        let start = self.cols.start + panel * NR;
        start..(start + NR).min(self.cols.end)
    }

    /// Hands each row of a tile to `to`.
    #[inline(always)]
    fn by_rows(
        &self,
        rows: &Range<usize>,
        panel: usize,
        tile: &mut Tile,
        to: &impl Fn(usize, Range<usize>, &mut [u32]),
    ) {
        let cols = self.columns(panel);
        for (r, i) in rows.clone().enumerate() {
            to(i, cols.clone(), &mut tile.row_mut(r)[..cols.len()]);
        }
    }

    /// Consecutive segments that fit the packed buffer together.
    fn batches(&self, panels: usize) -> Vec<&[Segment]> {
        let segments = &self.product.segments;
        let mut out = Vec::new();
        let (mut start, mut words) = (0, 0);
        for (i, segment) in segments.iter().enumerate() {
            let size = self.packed_size(segment, panels);
            if words + size > PACKED_WORDS + PACKED_WORDS / 8 && i > start {
                out.push(&segments[start..i]);
                (start, words) = (i, 0);
            }
            words += size;
        }
        out.push(&segments[start..]);
        out
    }

    /// Words of the packed buffer that a segment takes.
    fn packed_size(&self, segment: &Segment, panels: usize) -> usize {
        match self.product.operands[segment.operand].right.packed(self.cols.start, segment.k.start) {
            None => segment.words * panels * NR,
            Some(_) => 0,
        }
    }

    fn pack(&self, batch: &[Segment], packed: &mut Vec<u32>) {
        let panels = self.cols.len().div_ceil(NR);
        let size = |s: &Segment| self.packed_size(s, panels);
        let total: usize = batch.iter().map(size).sum();
        if packed.len() < total {
            packed.resize(total, 0);
        }
        let mut rest = &mut packed[..total];
        for segment in batch {
            let (out, tail) = rest.split_at_mut(size(segment));
            self.product.operands[segment.operand].right.pack(segment.k.clone(), self.cols.clone(), out);
            rest = tail;
        }
    }

    /// The products of a batch, as or added to a tile.
    #[inline(always)]
    fn tile(
        &self,
        batch: &[Segment],
        rows: &Range<usize>,
        panel: usize,
        packed: &[u32],
        last_rows: &mut Vec<u32>,
        tile: &mut Tile,
        mut write: Write,
        settle: &impl Fn(usize, Range<usize>, &mut [u32]),
    ) {
        let mut at = 0;
        let (cols, panels) = (self.columns(panel), self.cols.len().div_ceil(NR));
        for segment in batch {
            let Segment { operand, k, words, settles } = segment;
            let Operand { kernel, left, right, .. } = &self.product.operands[*operand];
            let b = match right.packed(cols.start, k.start) {
                Some(b) => b,
                None => {
                    let b = &packed[at + panel * words * NR..];
                    at += words * panels * NR;
                    b
                }
            };
            let b = &b[..words * NR];
            let (a, row_bytes) = left.at(rows.start, k.start);
            // SAFETY: the kernel is one of this machine's; rows of A hold `words` words from k on, or are copied to where
            // they do; b is a panel.
            unsafe {
                match rows.len() {
                    MR => kernel(*words, a, row_bytes, b.as_ptr(), cols.len(), tile, write),
                    count => {
                        let a = copy_last_rows(a, row_bytes, count, *words, last_rows);
                        kernel(*words, a, words * 4, b.as_ptr(), cols.len(), tile, write);
                    }
                }
            }
            if *settles {
                self.by_rows(rows, panel, tile, settle);
            }
            write = Write::Add;
        }
    }
}

/// `count` rows of `words` words, and zeros up to [`MR`] rows.
///
/// # Safety
/// `words` words can be read from each row.
unsafe fn copy_last_rows(a: *const u8, row_bytes: usize, count: usize, words: usize, out: &mut Vec<u32>) -> *const u8 {
    out.clear();
    out.resize(MR * words, 0);
    for r in 0..count {
        // SAFETY: as the caller promised; out holds MR rows.
        unsafe {
            std::ptr::copy_nonoverlapping(a.add(r * row_bytes), out[r * words..].as_mut_ptr().cast::<u8>(), words * 4);
        }
    }
    out.as_ptr().cast()
}

#[cfg(test)]
mod tests;
