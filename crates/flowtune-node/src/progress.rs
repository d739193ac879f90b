//! Watching and stopping work that settles a promise.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use flowtune_train::{Control, Event};
use napi::threadsafe_function::ThreadsafeFunctionCallMode;
use napi_derive::napi;

pub use crate::job_channel::EventCallback;

/// A flag that asks work to stop.
#[napi]
pub struct CancelToken {
    cancelled: Arc<AtomicBool>,
}

#[napi]
impl CancelToken {
    /// A flag that is not set.
    #[napi(constructor)]
    #[allow(clippy::new_without_default)] // JavaScript has no `Default`
    pub fn new() -> Self {
        Self { cancelled: Arc::default() }
    }

    /// Sets it.
    #[napi]
    pub fn cancel(&self) {
        self.cancelled.store(true, Ordering::Relaxed);
    }
}

/// What the core tells and asks while it works. Events may be lost when the environment closes: nobody listens then.
pub fn control(token: &CancelToken, callback: EventCallback) -> Control {
    let on_event = move |event: &Event| {
        if let Ok(json) = serde_json::to_string(event) {
            callback.call(json, ThreadsafeFunctionCallMode::NonBlocking);
        }
    };
    Control { cancel: Arc::clone(&token.cancelled), on_event: Box::new(on_event) }
}
