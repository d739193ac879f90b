//! The way from a job's thread to JavaScript: events, and behind the last of them the outcome.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use napi::Status;
use napi::threadsafe_function::{ThreadsafeFunction, ThreadsafeFunctionCallMode};

use crate::job_state::JobState;

/// Calls `onEvent(json)`. Weak: waiting for the outcome keeps the process alive, listening does not.
pub type EventCallback = ThreadsafeFunction<String, (), String, Status, false, true>;

/// Events that may wait for JavaScript before step events are dropped; only a stalled event loop
/// lets so many gather.
const MAX_WAITING: usize = 1024;

/// Sends events without ever blocking the job: a full queue costs step events, never others.
///
/// The bound is counted here and not given to the threadsafe function: a call that blocks on a full
/// queue holds a lock that the environment's teardown waits for.
pub struct JobChannel {
    callback: EventCallback,
    shared: Arc<Shared>,
}

struct Shared {
    /// Events on their way, and one for the job while it runs: the outcome is told when none is left.
    pending: AtomicUsize,
    cancel: Arc<AtomicBool>,
    state: Arc<JobState>,
}

impl Shared {
    fn arrived(&self) {
        if self.pending.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.state.announce();
        }
    }
}

impl JobChannel {
    pub fn new(callback: EventCallback, cancel: Arc<AtomicBool>, state: Arc<JobState>) -> Self {
        let shared = Shared { pending: AtomicUsize::new(1), cancel, state };
        Self { callback, shared: Arc::new(shared) }
    }

    /// Sends an event that may be dropped when JavaScript does not keep up.
    pub fn send_droppable(&self, json: String) {
        if self.shared.pending.load(Ordering::Relaxed) <= MAX_WAITING {
            self.send(json);
        }
    }

    /// Sends an event.
    pub fn send(&self, json: String) {
        self.shared.pending.fetch_add(1, Ordering::AcqRel);
        let shared = Arc::clone(&self.shared);
        let mode = ThreadsafeFunctionCallMode::NonBlocking;
        let status = self.callback.call_with_return_value(json, mode, move |_, _| {
            shared.arrived();
            Ok(())
        });
        if status != Status::Ok {
            // The worker thread that started the job has ended: nobody can want its result.
            self.shared.cancel.store(true, Ordering::Relaxed);
            self.shared.arrived();
        }
    }

    /// The job has ended and its outcome is in the state.
    pub fn close(&self) {
        self.shared.arrived();
    }
}
