//! Memory for the elements of tensors.

use crate::allocator;

/// A vector of numbers that nobody has written yet: zeroing the large results of an operation, only to write them,
/// would cost as much as many an operation itself. Large ones lie on huge pages where the system has them.
pub(crate) fn unfilled<T: bytemuck::Pod>(len: usize) -> Vec<T> {
    let mut data = Vec::<T>::with_capacity(len);
    // Where they are advised from the beginning, another call would only wait for others of its kind.
    if !allocator::holds(data.as_ptr()) {
        ask_for_huge_pages(data.spare_capacity_mut());
    }
    #[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
    // SAFETY: the memory is allocated, and any bits are a value of T. The empty assembly may, for all that the compiler
    // knows, have written to it, so that its contents are arbitrary but fixed.
    unsafe {
        std::arch::asm!("/* {0} */", in(reg) data.as_mut_ptr(), options(nostack, preserves_flags));
        data.set_len(len);
    }
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    data.resize(len, T::zeroed());
    data
}

/// A weight of a hundred megabytes lies on 25,000 small pages, each column of a product on others: their addresses alone
/// overflow the processor's tables. On pages of two megabytes they do not. Where the system has none, nothing changes.
#[cfg(target_os = "linux")]
fn ask_for_huge_pages<T>(memory: &mut [std::mem::MaybeUninit<T>]) {
    const HUGE: usize = 1 << 21;
    let range = memory.as_mut_ptr_range();
    let (start, end) = ((range.start as usize).next_multiple_of(HUGE), range.end as usize / HUGE * HUGE);
    if start < end {
        // SAFETY: whole pages of an allocation; the advice changes no contents.
        unsafe { libc::madvise(start as *mut libc::c_void, end - start, libc::MADV_HUGEPAGE) };
    }
}

#[cfg(not(target_os = "linux"))]
fn ask_for_huge_pages<T>(_: &mut [std::mem::MaybeUninit<T>]) {}
