//! Long-running work, each on a thread of its own: never on libuv's pool, which Node shares with
//! its file system and DNS.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use flowtune_train::{Control, Event};
use napi::Env;
use napi::bindgen_prelude::Object;
use napi_derive::napi;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::{Failure, Result, caught, guarded, to_json};
use crate::executor::STACK_BYTES;
use crate::job_channel::{EventCallback, JobChannel};
use crate::job_state::JobState;

/// A piece of work that runs, or has ended.
#[napi]
pub struct Job {
    state: Arc<JobState>,
    cancel: Arc<AtomicBool>,
}

#[napi]
impl Job {
    /// `running`, `cancelling`, `finished`, `failed` or `cancelled`.
    #[napi]
    pub fn status(&self) -> &'static str {
        let cancelling = self.cancel.load(Ordering::Relaxed);
        let running = if cancelling { "cancelling" } else { "running" };
        self.state.status().unwrap_or(running)
    }

    /// Asks the work to stop at the next point where nothing is lost.
    #[napi]
    pub fn cancel(&self) {
        self.cancel.store(true, Ordering::Relaxed);
    }

    /// JSON `{ok: true, value}` or `{ok: false, error: {code, message}}`, once the last event has
    /// been delivered.
    #[napi(ts_return_type = "Promise<string>")]
    pub fn wait<'env>(&self, env: &'env Env) -> napi::Result<Object<'env>> {
        self.state.wait(env)
    }
}

/// Starts `kind` of work. `on_event` gets each event as JSON.
#[napi(ts_args_type = "kind: string, optionsJson: string, onEvent: (eventJson: string) => void")]
pub fn start_job(kind: String, options_json: String, on_event: EventCallback) -> Result<Job> {
    guarded(|| {
        let work = parse(&kind, &options_json)?;
        let state = Arc::<JobState>::default();
        let cancel = Arc::<AtomicBool>::default();
        let channel = JobChannel::new(on_event, Arc::clone(&cancel), Arc::clone(&state));
        spawn(&kind, work, channel, Arc::clone(&cancel), Arc::clone(&state))?;
        Ok(Job { state, cancel })
    })
}

/// Work with its options, ready to run; its value is JSON.
type Work = Box<dyn FnOnce(&Control) -> Result<String, Failure> + Send>;

fn parse(kind: &str, options: &str) -> Result<Work, Failure> {
    match kind {
        "train" => work(options, flowtune_train::train),
        "prepare" => work(options, flowtune_train::prepare),
        "sample" => work(options, flowtune_train::sample),
        "export" => work(options, flowtune_train::export),
        "merge" => work(options, flowtune_train::merge),
        "download" => work(options, flowtune_train::download),
        "evaluate" => work(options, flowtune_train::evaluate),
        "verify" => work(options, flowtune_train::verify::verify),
        _ => Err(Failure::new("INVALID_ARGUMENT", format!("there is no job of kind `{kind}`"))),
    }
}

fn work<O, V>(options: &str, function: fn(O, &Control) -> Result<V, flowtune_train::Error>) -> Result<Work, Failure>
where
    O: DeserializeOwned + Send + 'static,
    V: Serialize + 'static,
{
    let options: O =
        serde_json::from_str(options).map_err(|error| Failure::new("INVALID_ARGUMENT", format!("options: {error}")))?;
    Ok(Box::new(move |control| to_json(&function(options, control)?)))
}

fn spawn(
    kind: &str,
    work: Work,
    channel: JobChannel,
    cancel: Arc<AtomicBool>,
    state: Arc<JobState>,
) -> Result<(), Failure> {
    let channel = Arc::new(channel);
    let thread = thread::Builder::new().name(format!("flowtune-{kind}")).stack_size(STACK_BYTES);
    let body = move || {
        let control = control(&channel, cancel);
        state.finish(caught(|| work(&control)));
        channel.close();
    };
    thread
        .spawn(body)
        .map(drop)
        .map_err(|error| Failure::new("OUT_OF_MEMORY", format!("no thread for the job: {error}")))
}

fn control(channel: &Arc<JobChannel>, cancel: Arc<AtomicBool>) -> Control {
    let channel = Arc::clone(channel);
    let on_event = move |event: &Event| {
        let Ok(json) = serde_json::to_string(event) else { return };
        if matches!(event, Event::Step { .. }) {
            channel.send_droppable(json);
        } else {
            channel.send(json);
        }
    };
    Control { cancel, on_event: Box::new(on_event) }
}
