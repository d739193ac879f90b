//! What a job's handle and its thread share.

use std::sync::{Mutex, MutexGuard, PoisonError};

use napi::bindgen_prelude::Object;
use napi::{Env, JsDeferred, Result};

use crate::error::Failure;

type Resolver = Box<dyn FnOnce(Env) -> Result<String> + Send>;
type Deferred = JsDeferred<String, Resolver>;

/// Status, outcome, and the promises that wait for it.
#[derive(Default)]
pub struct JobState {
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    outcome: Option<Outcome>,
    /// Set once JavaScript has seen every event.
    announced: bool,
    waiting: Vec<Deferred>,
}

struct Outcome {
    status: &'static str,
    json: String,
}

impl JobState {
    /// `finished`, `failed`, `cancelled`, or none while the job runs.
    pub fn status(&self) -> Option<&'static str> {
        self.lock().outcome.as_ref().map(|outcome| outcome.status)
    }

    /// Keeps how the job ended; `value` is JSON.
    pub fn finish(&self, result: std::result::Result<String, Failure>) {
        let outcome = match result {
            Ok(value) => Outcome { status: "finished", json: format!(r#"{{"ok":true,"value":{value}}}"#) },
            Err(failure) => {
                let status = if failure.code == "CANCELLED" { "cancelled" } else { "failed" };
                let json = serde_json::json!({ "ok": false, "error": failure }).to_string();
                Outcome { status, json }
            }
        };
        self.lock().outcome = Some(outcome);
    }

    /// Tells the outcome to all who wait.
    pub fn announce(&self) {
        let mut inner = self.lock();
        inner.announced = true;
        let json = inner.outcome.as_ref().map(|outcome| outcome.json.clone()).unwrap_or_default();
        for deferred in inner.waiting.drain(..) {
            settle(deferred, json.clone());
        }
    }

    /// A promise of the outcome.
    pub fn wait<'env>(&self, env: &'env Env) -> Result<Object<'env>> {
        let (deferred, promise) = env.create_deferred::<String, Resolver>()?;
        let mut inner = self.lock();
        match &inner.outcome {
            Some(outcome) if inner.announced => settle(deferred, outcome.json.clone()),
            _ => inner.waiting.push(deferred),
        }
        Ok(promise)
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Nothing panics while it holds the lock, and what it guards is whole at any time.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn settle(deferred: Deferred, json: String) {
    deferred.resolve(Box::new(move |_| Ok(json)));
}
