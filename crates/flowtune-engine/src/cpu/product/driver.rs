//! Sums of products of any kinds, tile by tile.

use std::cell::RefCell;
use std::ops::Range;

use super::kernel::{Kernel, MR, NR, Tile};
use super::left::{Left, copy_last_rows};
use super::pack::Packed;
use super::right::InPanels;
use super::{Kind, Term, TermOf};
use crate::cpu::mat::{Threads, Write};
use crate::cpu::parallel;
use crate::cpu::simd::vectorised;

/// Columns of one piece of work: two panels.
const NC: usize = 128;
/// Words of the right matrix that are packed at a time: half of a megabyte, to stay in the second-level cache.
const PACKED_WORDS: usize = 1 << 17;

/// Rows and columns of a product.
pub(super) fn extents(operands: &[Operand]) -> (usize, usize) {
    let (m, n) = operands.first().map_or((0, 0), |of| (of.rows, of.right.extents().1));
    for of in operands {
        assert_eq!((of.rows, (of.k, n)), (m, of.right.extents()));
    }
    (m, n)
}

/// A term of any kind.
pub(super) struct Operand<'a> {
    kernel: Kernel,
    rows: usize,
    k: usize,
    left: Left<'a>,
    right: &'a dyn InPanels,
}

impl<'a> Operand<'a> {
    pub(super) fn all<K: Kind>(terms: &'a [TermOf<'a, K>]) -> Vec<Self> {
        terms.iter().map(|term| Self::of::<K>(K::kernels()[0].1, term)).collect()
    }

    pub(super) fn of<K: Kind>(kernel: Kernel, Term { a, b }: &'a TermOf<'a, K>) -> Self {
        Self { kernel, rows: a.rows(), k: a.cols(), left: Left::of(a, K::Right::PER_WORD), right: b }
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
pub(super) struct Driver<'a> {
    operands: &'a [Operand<'a>],
    segments: Vec<Segment>,
    rows: usize,
    cols: usize,
}

impl<'a> Driver<'a> {
    /// The sums of the operands before `settled` are settled.
    pub(super) fn of(operands: &'a [Operand<'a>], settled: Option<usize>) -> Self {
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

    /// Hands each row of a tile to `emit`: row, columns, the bits of its sums; `settle` may change them on the way.
    pub(super) fn run(
        &self,
        threads: Threads,
        settle: impl Fn(usize, Range<usize>, &mut [u32]) + Sync,
        emit: impl Fn(usize, Range<usize>, &mut [u32]) + Sync,
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
                driver: self,
                rows: (part * rows).min(m)..((part + 1) * rows).min(m),
                cols: chunk * NC..((chunk + 1) * NC).min(n),
            };
            SCRATCH.with_borrow_mut(|scratch| {
                vectorised(
                    #[inline(always)]
                    || work.run(scratch, &settle, &emit),
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
    driver: &'a Driver<'a>,
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
        let segments = &self.driver.segments;
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
        match self.driver.operands[segment.operand].right.packed(self.cols.start, segment.k.start) {
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
            self.driver.operands[segment.operand].right.pack(segment.k.clone(), self.cols.clone(), out);
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
            let Operand { kernel, left, right, .. } = &self.driver.operands[*operand];
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
