//! What this machine has to give.

use std::path::Path;

use sysinfo::{MemoryRefreshKind, System};

/// Bytes that a process can still take without swapping, within the limit of its container; none when the system does not
/// say.
pub(crate) fn available_memory() -> Option<u64> {
    let mut system = System::new();
    system.refresh_memory_specifics(MemoryRefreshKind::nothing().with_ram());
    // What a container counts as used has cached files in it, which give way.
    let container = system.cgroup_limits().map(|limits| limits.total_memory.saturating_sub(limits.rss));
    let available = container.into_iter().fold(system.available_memory(), u64::min);
    (available > 0).then_some(available)
}

/// Bytes free on the disk that `path` is on, or will be.
pub(super) fn free_disk(path: &Path) -> Option<u64> {
    let there = path.ancestors().find(|folder| folder.exists())?;
    fs4::available_space(there).ok()
}
