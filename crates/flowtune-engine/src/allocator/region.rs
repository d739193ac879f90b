//! Addresses for large blocks, on pages of two megabytes.

use std::alloc::Layout;
use std::ops::Range;
use std::ptr;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use super::PAGE;
use super::pages::Pages;

struct Region {
    /// Addresses; the first is of a page.
    addresses: Range<usize>,
    pages: Mutex<Pages>,
}

static REGION: OnceLock<Option<Region>> = OnceLock::new();

/// A block of the region; `None` where there is no room, or no region.
pub(super) fn take(layout: Layout) -> Option<*mut u8> {
    let region = REGION.get_or_init(Region::reserve).as_ref().filter(|_| layout.align() <= PAGE)?;
    let mut pages = region.pages();
    let first = pages.take(layout.size().div_ceil(PAGE))?;
    region.give_up_surplus(&mut pages);
    Some(ptr::with_exposed_provenance_mut(region.addresses.start + first * PAGE))
}

/// Gives a block of the region back to it.
pub(super) fn free(block: *mut u8, layout: Layout) {
    let Some(region) = REGION.get().and_then(Option::as_ref) else { return };
    let first = (block.addr() - region.addresses.start) / PAGE;
    let mut pages = region.pages();
    pages.free(first..first + layout.size().div_ceil(PAGE));
    region.give_up_surplus(&mut pages);
}

/// Whether `block` is the region's.
pub(crate) fn holds<T>(block: *const T) -> bool {
    let region = REGION.get().and_then(Option::as_ref);
    region.is_some_and(|region| region.addresses.contains(&block.addr()))
}

impl Region {
    fn reserve() -> Option<Self> {
        // SAFETY: asks the system for numbers.
        let [count, size] = [libc::_SC_PHYS_PAGES, libc::_SC_PAGESIZE].map(|name| unsafe { libc::sysconf(name) });
        // Blocks lie scattered among free ones: as many addresses again.
        let memory = usize::try_from(count).ok()?.checked_mul(usize::try_from(size).ok()?)?;
        let pages = memory.checked_mul(2)? / PAGE;
        let bytes = (pages + 1) * PAGE;
        // SAFETY: new addresses, without memory until they are written to.
        let start = unsafe {
            let (access, kind) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
            libc::mmap(ptr::null_mut(), bytes, access, kind | libc::MAP_NORESERVE, -1, 0)
        };
        if start == libc::MAP_FAILED {
            return None;
        }
        // SAFETY: the mapping; the advice changes no contents.
        unsafe { libc::madvise(start, bytes, libc::MADV_HUGEPAGE) };
        keep_small_blocks();
        let first = start.expose_provenance().next_multiple_of(PAGE);
        Some(Self { addresses: first..first + pages * PAGE, pages: Mutex::new(Pages::new(pages)) })
    }

    fn pages(&self) -> MutexGuard<'_, Pages> {
        self.pages.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Under the lock: nobody else can have got the pages yet.
    fn give_up_surplus(&self, pages: &mut Pages) {
        while let Some(surplus) = pages.surplus() {
            let start = ptr::with_exposed_provenance_mut(self.addresses.start + surplus.start * PAGE);
            // SAFETY: pages of the region that are in no block.
            unsafe { libc::madvise(start, surplus.len() * PAGE, libc::MADV_DONTNEED) };
        }
    }
}

/// glibc learns from the largest block that it mapped and got back how much to keep of what is free, up to these bounds. It
/// sees no large ones any more, and would give back and get anew the memory of smaller ones. Heaps of threads other than
/// the first, of 64 MB at most, it gives back whole where less than the last bound is wanted to spare.
fn keep_small_blocks() {
    #[cfg(target_env = "gnu")]
    // SAFETY: sets numbers.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, 32 << 20);
        libc::mallopt(libc::M_TRIM_THRESHOLD, 64 << 20);
        libc::mallopt(libc::M_TOP_PAD, 64 << 20);
    }
}
