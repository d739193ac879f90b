//! Work that takes longer than the event loop may wait: it runs on one thread per JavaScript thread, in the order in
//! which it was asked for, and settles a promise. Never on libuv's pool, which Node shares with its file system and DNS.

use std::cell::RefCell;
use std::sync::mpsc::{Sender, channel};
use std::thread;

use napi::bindgen_prelude::{Object, ToNapiValue};
use napi::{Env, JsError, Result};

use crate::error::{Failure, caught};

/// candle's and the tokenizer's recursion needs more than the 2 MiB that a thread has by default.
pub const STACK_BYTES: usize = 64 << 20;

type Work = Box<dyn FnOnce() + Send>;

thread_local! {
    /// The thread that works for this JavaScript thread. It ends when the JavaScript thread does.
    static QUEUE: RefCell<Option<Sender<Work>>> = const { RefCell::new(None) };
}

/// A promise of what `work` gives; its failure, or its panic, rejects the promise with an error that has a `code`.
pub fn promise<'env, T>(
    env: &'env Env,
    work: impl FnOnce() -> std::result::Result<T, Failure> + Send + 'static,
) -> Result<Object<'env>>
where
    T: ToNapiValue + Send + 'static,
{
    type Resolver<T> = Box<dyn FnOnce(Env) -> Result<T> + Send>;
    let (deferred, promise) = env.create_deferred::<T, Resolver<T>>()?;
    let task = Box::new(move || {
        let outcome = caught(work);
        deferred.resolve(Box::new(move |env| outcome.map_err(|failure| rejection(env, failure))));
    });
    submit(task).map_err(|failure| napi::Error::from_reason(failure.message))?;
    Ok(promise)
}

/// A JavaScript error with `code`, made on its own thread.
fn rejection(env: Env, Failure { code, message }: Failure) -> napi::Error {
    JsError::from(napi::Error::new(code, message)).into_unknown(env).into()
}

fn submit(work: Work) -> std::result::Result<(), Failure> {
    QUEUE.with_borrow_mut(|queue| {
        let sender = match queue {
            Some(sender) => sender,
            None => queue.insert(start()?),
        };
        sender.send(work).map_err(|_| Failure::new("INTERNAL", "the engine's thread has ended"))
    })
}

fn start() -> std::result::Result<Sender<Work>, Failure> {
    let (sender, receiver) = channel::<Work>();
    let thread = thread::Builder::new().name("flowtune-engine".to_owned()).stack_size(STACK_BYTES);
    thread
        .spawn(move || receiver.into_iter().for_each(|work| work()))
        .map_err(|error| Failure::new("OUT_OF_MEMORY", format!("no thread for the engine: {error}")))?;
    Ok(sender)
}
