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

impl From<flowtune_engine::Error> for Failure {
    /// Arguments and operations under the names that JavaScript knows them by.
    fn from(error: flowtune_engine::Error) -> Self {
        use flowtune_engine::Error::{DType, Shape};
        let code = error.code();
        match error {
            Shape { op, argument, expected, got } => {
                let (op, argument) = (camel_case(op), camel_case(argument));
                Self::new(code, format!("{op}: {argument} must have shape {expected}, but has {got:?}"))
            }
            DType { op, expected, got } => {
                Self::new(code, format!("{}: expected dtype {expected}, got {got}", camel_case(op)))
            }
            other => Self::new(code, other.to_string()),
        }
    }
}

impl From<flowtune_models::Error> for Failure {
    fn from(error: flowtune_models::Error) -> Self {
        match error {
            flowtune_models::Error::Engine(error) => error.into(),
            other => Self::new(other.code(), other.to_string()),
        }
    }
}

impl From<flowtune_flow::Error> for Failure {
    fn from(error: flowtune_flow::Error) -> Self {
        match error {
            flowtune_flow::Error::Engine(error) => error.into(),
            flowtune_flow::Error::Model(error) => error.into(),
            other => Self::new(other.code(), other.to_string()),
        }
    }
}

/// `image_latents` → `imageLatents`.
fn camel_case(name: &str) -> String {
    let mut upper = false;
    let mut out = String::with_capacity(name.len());
    for c in name.chars() {
        match (c, upper) {
            ('_', _) => upper = true,
            (c, true) => {
                out.extend(c.to_uppercase());
                upper = false;
            }
            (c, false) => out.push(c),
        }
    }
    out
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

failure_from!(flowtune_train::Error, flowtune_data::Error);

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
