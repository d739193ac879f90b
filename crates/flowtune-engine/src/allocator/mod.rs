//! Memory of large tensors.
//!
//! A step makes and drops the same large tensors again and again. An allocator that gives them back to the system each
//! time, as glibc does from 32 MB on, gets cleared pages anew, on some machines at a gigabyte a second; one that gives
//! nothing back takes more than it must. This one keeps what is free for the next block, as long as that takes no more
//! memory than the blocks themselves once did.

#[cfg(target_os = "linux")]
mod pages;
#[cfg_attr(not(target_os = "linux"), path = "no_region.rs")]
mod region;

use std::alloc::{GlobalAlloc, Layout, System};

pub(crate) use region::holds;

/// Blocks from this size on are large.
const LARGE: usize = 4 << 20;
/// Bytes of a huge page of most processors. Large blocks take whole ones, so that what one gives up is never shared.
const PAGE: usize = 2 << 20;

/// The system's allocator, on Linux with a region of its own for large blocks. For programs that train:
///
/// ```
/// #[global_allocator]
/// static ALLOCATOR: flowtune_engine::TensorAllocator = flowtune_engine::TensorAllocator;
/// ```
///
/// The region is addresses, twice as many as the machine has memory, on huge pages where the system has them. Where it may
/// not be reserved, and for what does not fit, blocks are the system's.
pub struct TensorAllocator;

impl TensorAllocator {
    /// Bytes of memory that a block of `bytes` takes.
    pub fn block_size(bytes: usize) -> usize {
        match cfg!(target_os = "linux") && bytes >= LARGE {
            true => bytes.next_multiple_of(PAGE),
            false => bytes,
        }
    }
}

/// A block of the region, where it is to be one.
fn large(layout: Layout) -> Option<*mut u8> {
    if layout.size() >= LARGE { region::take(layout) } else { None }
}

// SAFETY: a block is the region's or the system's, whole, and goes back where it came from.
unsafe impl GlobalAlloc for TensorAllocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as the caller promised.
        large(layout).unwrap_or_else(|| unsafe { System.alloc(layout) })
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        match layout.size() >= LARGE && holds(block) {
            true => region::free(block, layout),
            // SAFETY: as the caller promised; the block is not the region's, so it is the system's.
            false => unsafe { System.dealloc(block, layout) },
        }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        if let Some(block) = large(layout) {
            // SAFETY: the block is of that size. Its pages may be those of another.
            unsafe { block.write_bytes(0, layout.size()) };
            return block;
        }
        // SAFETY: as the caller promised.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        if layout.size().max(size) < LARGE {
            // SAFETY: as the caller promised; small blocks are the system's.
            return unsafe { System.realloc(block, layout, size) };
        }
        // SAFETY: as the caller promised of the size and the block.
        unsafe {
            let moved = self.alloc(Layout::from_size_align_unchecked(size, layout.align()));
            if !moved.is_null() {
                moved.copy_from_nonoverlapping(block, layout.size().min(size));
                self.dealloc(block, layout);
            }
            moved
        }
    }
}
