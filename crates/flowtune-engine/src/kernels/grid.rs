//! How work is cut into blocks of threads.

use crate::error::{Error, Result};

/// Blocks in a grid: more is not launched.
const MOST_BLOCKS: usize = i32::MAX as usize;
/// Threads of a warp.
const WARP: usize = 32;
/// Threads of a block, when there is work for them.
pub(super) const THREADS: usize = 256;

/// Blocks and the threads of each; all in one dimension, whole warps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Grid {
    /// Blocks.
    pub blocks: u32,
    /// Threads of a block.
    pub threads: u32,
}

impl Grid {
    fn new(op: &'static str, blocks: Option<usize>, threads: usize) -> Result<Self> {
        match blocks.filter(|&blocks| blocks <= MOST_BLOCKS) {
            Some(blocks) => Ok(Self { blocks: blocks as u32, threads: threads as u32 }),
            None => Err(Error::Launch { kernel: op.to_owned(), reason: format!("it needs over {MOST_BLOCKS} blocks") }),
        }
    }

    /// A block for each row of `width` elements.
    ///
    /// # Errors
    /// `INTERNAL` when there would be more than a device takes.
    pub fn rows(op: &'static str, rows: usize, width: usize) -> Result<Self> {
        Self::new(op, Some(rows), threads_for(width))
    }

    /// A warp for each row.
    ///
    /// # Errors
    /// `INTERNAL` when there would be more than a device takes.
    pub fn warps(op: &'static str, rows: usize) -> Result<Self> {
        Self::new(op, Some(rows.div_ceil(THREADS / WARP)), THREADS)
    }

    /// A thread for each element.
    ///
    /// # Errors
    /// `INTERNAL` when there would be more than a device takes.
    pub fn elements(op: &'static str, count: usize) -> Result<Self> {
        Self::new(op, Some(count.div_ceil(THREADS)), THREADS)
    }

    /// For each of `groups`, blocks that have a thread for each of `width` columns.
    ///
    /// # Errors
    /// `INTERNAL` when there would be more than a device takes.
    pub fn tiles(op: &'static str, groups: usize, width: usize) -> Result<Self> {
        let threads = threads_for(width);
        Self::new(op, groups.checked_mul(width.div_ceil(threads)), threads)
    }

    /// For each of `groups`, blocks of 32 columns.
    ///
    /// # Errors
    /// `INTERNAL` when there would be more than a device takes.
    pub fn narrow_tiles(op: &'static str, groups: usize, width: usize) -> Result<Self> {
        Self::new(op, groups.checked_mul(width.div_ceil(WARP)), THREADS)
    }

    /// `blocks` full blocks.
    ///
    /// # Errors
    /// `INTERNAL` when there would be more than a device takes.
    pub fn full(op: &'static str, blocks: usize) -> Result<Self> {
        Self::new(op, Some(blocks), THREADS)
    }
}

fn threads_for(width: usize) -> usize {
    width.next_multiple_of(WARP).clamp(WARP, THREADS)
}
