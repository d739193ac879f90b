//! How a run is steered and watched from outside.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::event::Event;

/// The two threads between a run and its owner.
pub struct Control {
    /// Set from any thread to ask the run to stop after its step.
    pub cancel: Arc<AtomicBool>,
    /// Called on the run's thread, in order.
    pub on_event: Box<dyn Fn(&Event) + Send + Sync>,
}

impl Control {
    /// A control that tells every event to `on_event` and is not cancelled.
    pub fn new(on_event: impl Fn(&Event) + Send + Sync + 'static) -> Self {
        Self { cancel: Arc::default(), on_event: Box::new(on_event) }
    }

    /// Whether the run was asked to stop.
    pub fn is_cancelled(&self) -> bool {
        self.cancel.load(Ordering::Relaxed)
    }

    /// Tells the owner.
    pub fn emit(&self, event: &Event) {
        (self.on_event)(event);
    }

    /// Tells how far a stage is.
    pub fn progress(&self, stage: &str, done: usize, total: usize) {
        self.emit(&Event::Progress { stage: stage.to_owned(), done: done as u64, total: total as u64, unit: None });
    }
}

impl Default for Control {
    /// Nobody watches, nobody cancels.
    fn default() -> Self {
        Self::new(|_| {})
    }
}
