//! Where no region is made, blocks are the system's.

use std::alloc::Layout;

pub(super) fn take(_: Layout) -> Option<*mut u8> {
    None
}

pub(super) fn free(_: *mut u8, _: Layout) {}

pub(crate) fn holds<T>(_: *const T) -> bool {
    false
}
