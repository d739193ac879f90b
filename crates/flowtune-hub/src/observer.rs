//! Who watches a download.

/// Hears how far a download is, and may stop it.
pub trait Observer {
    /// `done` of `total` bytes of what `stage` says.
    fn progress(&self, stage: &str, done: u64, total: u64);

    /// Something the user should know that stops nothing.
    fn warning(&self, message: &str);

    /// Whether to stop. What is downloaded stays, and the next attempt goes on from there.
    fn is_cancelled(&self) -> bool;
}

/// Nobody watches.
impl Observer for () {
    fn progress(&self, _stage: &str, _done: u64, _total: u64) {}

    fn warning(&self, _message: &str) {}

    fn is_cancelled(&self) -> bool {
        false
    }
}
