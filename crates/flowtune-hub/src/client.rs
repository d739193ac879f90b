//! HTTP as a hub speaks it. Redirects are followed by hand, since the token must not follow them to another host.

use std::thread;
use std::time::{Duration, Instant};

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use ureq::http::{HeaderMap, Method, StatusCode, header};
use ureq::{Agent, Body};

use crate::error::{Error, Result};
use crate::observer::Observer;
use crate::reference::HubModel;
use crate::settings::Settings;

/// An answer; its body is not yet read.
pub(crate) type Response = ureq::http::Response<Body>;

/// Redirects of one request.
const MAX_REDIRECTS: usize = 8;
/// Longest pause between attempts, whatever a server asks for.
const MAX_PAUSE: Duration = Duration::from_secs(60);
/// How often a pause looks whether to stop.
const TICK: Duration = Duration::from_millis(50);
/// What a part of a path may hold as it is.
const PLAIN: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');

/// Why a request failed.
pub(crate) enum Failure {
    /// It may be over in a while: a lost connection, a hub that is overloaded and may say for how long.
    Transient { why: String, pause: Option<Duration> },
    /// Trying again does not help.
    Final(Error),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Final(error)
    }
}

impl Failure {
    pub(crate) fn transient(why: impl ToString) -> Self {
        Self::Transient { why: why.to_string(), pause: None }
    }
}

/// Asks a hub.
pub(crate) struct Client {
    pub(crate) settings: Settings,
    agent: Agent,
}

impl Client {
    pub(crate) fn new(settings: Settings) -> Self {
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .timeout_connect(Some(settings.timeout))
            .timeout_recv_response(Some(settings.timeout))
            .timeout_per_read(Some(settings.timeout))
            .timeout_per_write(Some(settings.timeout))
            .user_agent(concat!("flowtune/", env!("CARGO_PKG_VERSION")))
            .build();
        Self { settings, agent: config.into() }
    }

    /// URL of a path of the hub; `parts` are escaped, slashes in them too.
    pub(crate) fn url(&self, parts: &[&str]) -> String {
        let parts = parts.iter().map(|part| utf8_percent_encode(part, PLAIN).to_string());
        [self.settings.endpoint.clone()].into_iter().chain(parts).collect::<Vec<_>>().join("/")
    }

    /// URL of a file at a commit.
    pub(crate) fn file_url(&self, id: &str, commit: &str, name: &str) -> String {
        let parts: Vec<&str> = id.split('/').chain(["resolve", commit]).chain(name.split('/')).collect();
        self.url(&parts)
    }

    /// The page where a person reads about a model.
    pub(crate) fn page(&self, id: &str) -> String {
        format!("{}/{id}", self.settings.endpoint)
    }

    /// What is at `url`, from byte `start` on.
    pub(crate) fn get(&self, url: &str, start: u64, model: &HubModel) -> Result<Response, Failure> {
        self.request(&Method::GET, url, start, model, |_| true)
    }

    /// What the hub itself says of a file, which another host may hold.
    pub(crate) fn head(&self, url: &str, model: &HubModel) -> Result<Response, Failure> {
        // A path is where a renamed model is now.
        self.request(&Method::HEAD, url, 0, model, |response| {
            !response.headers().contains_key("x-linked-etag")
                && location(response).is_some_and(|to| to.starts_with('/'))
        })
    }

    fn request(
        &self,
        method: &Method,
        url: &str,
        start: u64,
        model: &HubModel,
        follow: fn(&Response) -> bool,
    ) -> Result<Response, Failure> {
        let mut url = url.to_owned();
        for _ in 0..=MAX_REDIRECTS {
            let response = self.send(method, &url, start).map_err(Failure::transient)?;
            if !response.status().is_redirection() {
                return self.accept(response, &url, model);
            }
            if !follow(&response) {
                return Ok(response);
            }
            url = self.redirected(&url, location(&response))?;
        }
        Err(Error::Unavailable(format!("{url}: redirected too often; check HF_ENDPOINT")).into())
    }

    fn send(&self, method: &Method, url: &str, start: u64) -> Result<Response, ureq::Error> {
        let mut request = match *method {
            Method::HEAD => self.agent.head(url),
            _ => self.agent.get(url),
        };
        // Offsets and sizes are those of the file itself.
        request = request.header(header::ACCEPT_ENCODING, "identity");
        if start > 0 {
            request = request.header(header::RANGE, format!("bytes={start}-"));
        }
        match &self.settings.token {
            Some(token) if self.is_own(url) => {
                request = request.header(header::AUTHORIZATION, format!("Bearer {token}"))
            }
            _ => {}
        }
        request.call()
    }

    fn redirected(&self, from: &str, to: Option<&str>) -> Result<String, Failure> {
        let unclear = || Error::Unavailable(format!("{from}: redirected nowhere; check HF_ENDPOINT"));
        let to = to.ok_or_else(unclear)?;
        let scheme = from.split("://").next().unwrap_or_default();
        if let Some(rest) = to.strip_prefix("//") {
            return Ok(format!("{scheme}://{rest}"));
        }
        if to.starts_with('/') {
            return Ok(format!("{}{to}", origin(from)));
        }
        match to.starts_with("https://") || to.starts_with("http://") && scheme == "http" {
            true => Ok(to.to_owned()),
            false => Err(unclear().into()),
        }
    }

    /// Whether a URL is of the hub and no other host.
    fn is_own(&self, url: &str) -> bool {
        origin(url).eq_ignore_ascii_case(origin(&self.settings.endpoint))
    }

    fn accept(&self, response: Response, url: &str, model: &HubModel) -> Result<Response, Failure> {
        let status = response.status();
        // A range that is past the end is for the caller to see.
        if status.is_success() || status == StatusCode::RANGE_NOT_SATISFIABLE {
            return Ok(response);
        }
        let is_busy = matches!(status.as_u16(), 408 | 429 | 500 | 502 | 503 | 504);
        // Another host refuses when the link that it was given has expired; the next attempt asks for a new one.
        if is_busy || !self.is_own(url) {
            let pause = text(response.headers(), header::RETRY_AFTER.as_str()).and_then(|s| s.parse().ok());
            let why = format!("{} answers {status}", origin(url));
            return Err(Failure::Transient { why, pause: pause.map(Duration::from_secs) });
        }
        Err(self.refusal(status, response.headers(), model).into())
    }

    /// What a hub's refusal means.
    fn refusal(&self, status: StatusCode, headers: &HeaderMap, model: &HubModel) -> Error {
        let (id, page) = (&model.id, self.page(&model.id));
        let endpoint = &self.settings.endpoint;
        let token = match &self.settings.token {
            Some(_) => "with the account of the token that was sent, and see that the token may read gated models",
            None => "then set HF_TOKEN to a token of your account",
        };
        match (text(headers, "x-error-code"), status) {
            (Some("GatedRepo"), _) | (_, StatusCode::FORBIDDEN) => Error::Gated(format!(
                "{id} is gated: accept its licence at {page}, {token} ({endpoint}/settings/tokens)"
            )),
            (Some("RevisionNotFound"), _) => {
                Error::NotFound(format!("{id} has no revision `{}` ({page})", model.revision()))
            }
            (Some("EntryNotFound"), _) => Error::NotFound(format!("{id} has no such file ({page})")),
            (Some("RepoNotFound"), _) | (_, StatusCode::NOT_FOUND | StatusCode::GONE) => {
                let private = match &self.settings.token {
                    Some(_) => "or none that the account of your token may see",
                    None => "or it is private and needs a token of your account in HF_TOKEN",
                };
                Error::NotFound(format!("there is no folder `{id}` here, and no such model at {endpoint}, {private}"))
            }
            (_, StatusCode::UNAUTHORIZED) => match &self.settings.token {
                Some(_) => Error::Gated(format!(
                    "{endpoint} does not accept the token in HF_TOKEN or the token file: make a new one at {endpoint}/settings/tokens"
                )),
                None => Error::Gated(format!(
                    "{endpoint} shows {id} to nobody without a token: see whether there is such a model, accept its licence at {page}, {token} ({endpoint}/settings/tokens)"
                )),
            },
            _ => Error::Unavailable(format!("{endpoint} answers {status} for {id}")),
        }
    }

    /// Attempts until one succeeds, or too many have failed.
    pub(crate) fn retry<T>(
        &self,
        observer: &dyn Observer,
        mut attempt: impl FnMut() -> Result<T, Failure>,
    ) -> Result<T> {
        let mut patience = Patience::new(&self.settings);
        loop {
            match attempt() {
                Ok(value) => return Ok(value),
                Err(failure) => patience.after(failure, observer)?,
            }
        }
    }
}

/// How often failures are borne.
pub(crate) struct Patience<'a> {
    settings: &'a Settings,
    failures: u32,
}

impl<'a> Patience<'a> {
    pub(crate) fn new(settings: &'a Settings) -> Self {
        Self { settings, failures: 0 }
    }

    /// Something came through.
    pub(crate) fn renew(&mut self) {
        self.failures = 0;
    }

    /// Waits until it is time for another attempt.
    ///
    /// # Errors
    /// A final failure; `HUB_UNAVAILABLE` after too many others; `CANCELLED`.
    pub(crate) fn after(&mut self, failure: Failure, observer: &dyn Observer) -> Result<()> {
        let (why, asked) = match failure {
            Failure::Final(error) => return Err(error),
            Failure::Transient { why, pause } => (why, pause),
        };
        self.failures += 1;
        if self.failures >= self.settings.attempts {
            let endpoint = &self.settings.endpoint;
            return Err(Error::Unavailable(format!(
                "{endpoint} cannot be reached ({why}): check the connection and try again; what is downloaded stays"
            )));
        }
        let own = self.settings.first_pause * 2u32.saturating_pow(self.failures - 1);
        pause(asked.unwrap_or(own).clamp(own.min(MAX_PAUSE), MAX_PAUSE), observer)
    }
}

/// Waits, unless asked to stop.
pub(crate) fn pause(time: Duration, observer: &dyn Observer) -> Result<()> {
    let end = Instant::now() + time;
    loop {
        if observer.is_cancelled() {
            return Err(Error::Cancelled);
        }
        match end.checked_duration_since(Instant::now()) {
            Some(rest) => thread::sleep(rest.min(TICK)),
            None => return Ok(()),
        }
    }
}

/// A header's value.
pub(crate) fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

fn location(response: &Response) -> Option<&str> {
    text(response.headers(), header::LOCATION.as_str())
}

/// Scheme, host and port.
fn origin(url: &str) -> &str {
    let host = url.find("://").map_or(0, |i| i + 3);
    url[host..].find(['/', '?', '#']).map_or(url, |end| &url[..host + end])
}
