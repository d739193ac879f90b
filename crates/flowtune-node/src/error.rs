//! Errors on their way to JavaScript: a stable code and a message.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};

use serde::Serialize;

/// Result of an exported function, the error's status becomes `code` in JavaScript; or of another.
/// The name matters: `#[napi]` knows a fallible function by it.
pub type Result<T, E = napi::Error<String>> = std::result::Result<T, E>;

/// An error of any crate, reduced to what JavaScript sees.
#[derive(Debug, Serialize)]
pub struct Failure {
    pub code: &'static str,
    pub message: String,
}

impl Failure {
    /// A failure of the binding itself or of what was handed to it.
    pub fn new(code: &'static str, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }
}

macro_rules! failure_from {
    ($($error:ty),*) => {$(
        impl From<$error> for Failure {
            fn from(error: $error) -> Self {
                Self::new(error.code(), error.to_string())
            }
        }
    )*};
}

failure_from!(flowtune_train::Error, flowtune_flow::Error, flowtune_engine::Error);

/// Calls `action`; errors and panics become JavaScript errors with a `code`.
pub fn guarded<T>(action: impl FnOnce() -> Result<T, Failure>) -> Result<T> {
    caught(action).map_err(|Failure { code, message }| napi::Error::new(code.to_owned(), message))
}

/// Calls `action`; a panic becomes an `INTERNAL` failure, since it must not unwind into Node.
pub fn caught<T>(action: impl FnOnce() -> Result<T, Failure>) -> Result<T, Failure> {
    // The closure's state is dropped after a panic, nobody sees it half-changed.
    catch_unwind(AssertUnwindSafe(action)).unwrap_or_else(|panic| {
        Err(Failure::new("INTERNAL", format!("flowtune panicked, which is a bug: {}", panic_message(panic.as_ref()))))
    })
}

fn panic_message(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message")
}

/// `value` as JSON.
pub fn to_json(value: &impl Serialize) -> Result<String, Failure> {
    serde_json::to_string(value).map_err(|error| Failure::new("INTERNAL", format!("a result is not JSON: {error}")))
}
