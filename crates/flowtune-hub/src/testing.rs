//! A hub on loopback that speaks like the real one: its routes, redirects to another host for large files, ranges; and it
//! fails as tests ask it to.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;
use std::time::Duration;

use sha2::{Digest, Sha256};

use crate::settings::Settings;

/// Something that goes wrong, once.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Fault {
    /// The connection ends after so many bytes of a file's content.
    Drop(&'static str, usize),
    /// Nothing more comes after so many bytes.
    Stall(&'static str, usize),
    /// Other content of the same length.
    Damage(&'static str),
    /// All of the file, whatever range was asked for.
    NoRange(&'static str),
    /// This status to a request whose path contains the text; headers with it.
    Status(&'static str, u16, &'static str),
}

/// A request as it came.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) range: Option<String>,
    pub(crate) token: Option<String>,
    pub(crate) is_cdn: bool,
}

pub(crate) type Files = BTreeMap<String, Vec<u8>>;

#[derive(Default)]
pub(crate) struct State {
    /// By commit.
    pub(crate) commits: BTreeMap<String, Files>,
    /// Commit of a branch or tag.
    pub(crate) refs: BTreeMap<String, String>,
    pub(crate) faults: Vec<Fault>,
    pub(crate) seen: Vec<Seen>,
    /// Bytes of content that were sent, by name.
    pub(crate) sent: BTreeMap<String, usize>,
    /// Whether listings give sizes and hashes.
    pub(crate) without_blobs: bool,
    /// Another id under which the model was known.
    pub(crate) former_id: Option<&'static str>,
}

pub(crate) struct TestHub {
    endpoint: String,
    state: Arc<Mutex<State>>,
}

pub(crate) const ID: &str = "tests/tiny-flux";

/// A commit of forty equal digits.
pub(crate) fn commit(digit: char) -> String {
    digit.to_string().repeat(40)
}

impl TestHub {
    /// A hub with one model, at `main`, commit aaa….
    pub(crate) fn new(files: Files) -> Self {
        let (hub, cdn) = (listen(), listen());
        let mut state = State::default();
        state.commits.insert(commit('a'), files);
        state.refs.insert("main".to_owned(), commit('a'));
        let state = Arc::new(Mutex::new(state));
        let addresses = [&hub, &cdn].map(|l| format!("http://{}", l.local_addr().unwrap()));
        for (listener, is_cdn) in [(hub, false), (cdn, true)] {
            let (state, cdn) = (Arc::clone(&state), addresses[1].clone());
            thread::spawn(move || {
                for stream in listener.incoming().flatten() {
                    let (state, cdn) = (Arc::clone(&state), cdn.clone());
                    // A client that goes away is no failure of the test.
                    thread::spawn(move || drop(Connection { stream, state, cdn, is_cdn }.serve()));
                }
            });
        }
        Self { endpoint: addresses[0].clone(), state }
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    pub(crate) fn fail(&self, faults: &[Fault]) {
        self.state().faults = faults.to_vec();
    }

    /// What was asked since the last call.
    pub(crate) fn seen(&self) -> Vec<Seen> {
        std::mem::take(&mut self.state().seen)
    }

    pub(crate) fn sent(&self, name: &str) -> usize {
        self.state().sent.get(name).copied().unwrap_or(0)
    }

    pub(crate) fn settings(&self, cache: &Path) -> Settings {
        Settings {
            endpoint: self.endpoint.clone(),
            cache: cache.to_path_buf(),
            token: None,
            offline: false,
            timeout: Duration::from_millis(500),
            attempts: 3,
            first_pause: Duration::from_millis(1),
        }
    }
}

fn listen() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").unwrap()
}

struct Connection {
    stream: TcpStream,
    state: Arc<Mutex<State>>,
    cdn: String,
    is_cdn: bool,
}

impl Connection {
    fn serve(mut self) -> std::io::Result<()> {
        let request = self.read()?;
        let mut state = self.state.lock().unwrap();
        state.seen.push(request.clone());
        let wanted = |fault: &Fault| matches!(fault, Fault::Status(path, ..) if request.path.contains(path));
        if let Some(i) = state.faults.iter().position(wanted) {
            let Fault::Status(_, status, headers) = state.faults.remove(i) else { unreachable!() };
            drop(state);
            return self.answer(status, headers, b"refused");
        }
        let former = state.former_id.filter(|id| request.path.contains(id));
        drop(state);
        if let Some(former) = former {
            let location = format!("Location: {}\r\n", request.path.replace(former, ID));
            return self.answer(307, &location, b"");
        }
        self.route(&request)
    }

    fn read(&self) -> std::io::Result<Seen> {
        let mut lines = BufReader::new(&self.stream).lines();
        let first = lines.next().unwrap_or_else(|| Ok(String::new()))?;
        let mut words = first.split(' ').map(str::to_owned);
        let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let mut seen = Seen { method, path, range: None, token: None, is_cdn: self.is_cdn };
        for line in lines {
            let line = line?;
            match line.split_once(": ") {
                None => break,
                Some((name, value)) if name.eq_ignore_ascii_case("range") => seen.range = Some(value.to_owned()),
                Some((name, value)) if name.eq_ignore_ascii_case("authorization") => {
                    seen.token = Some(value.to_owned())
                }
                Some(_) => {}
            }
        }
        Ok(seen)
    }

    fn route(&mut self, request: &Seen) -> std::io::Result<()> {
        let path = request.path.split('?').next().unwrap_or_default().to_owned();
        if let Some(rest) = path.strip_prefix("/cdn/") {
            let (commit, name) = rest.split_once('/').unwrap();
            return self.content(request, commit, name, "");
        }
        if let Some(revision) = path.strip_prefix(&format!("/api/models/{ID}/revision/")) {
            return self.listing(&revision.replace("%2F", "/"));
        }
        if path == format!("/api/models/{ID}/refs") {
            return self.answer(200, "", br#"{"branches":[{"name":"main"}],"tags":[{"name":"v1"}]}"#);
        }
        if path == "/api/models" {
            return self.answer(200, "", format!(r#"[{{"id":"tests/other"}},{{"id":"{ID}"}}]"#).as_bytes());
        }
        match path.strip_prefix(&format!("/{ID}/resolve/")).and_then(|rest| rest.split_once('/')) {
            Some((commit, name)) => self.resolve(request, commit, name),
            None => self.answer(404, "X-Error-Code: RepoNotFound\r\n", b"no such model"),
        }
    }

    fn listing(&mut self, revision: &str) -> std::io::Result<()> {
        let state = self.state.lock().unwrap();
        let commit = state.refs.get(revision).cloned().unwrap_or_else(|| revision.to_owned());
        let Some(files) = state.commits.get(&commit) else {
            drop(state);
            return self.answer(404, "X-Error-Code: RevisionNotFound\r\n", b"no such revision");
        };
        let siblings: Vec<_> = files
            .iter()
            .map(|(name, bytes)| match (state.without_blobs, is_large(name)) {
                (true, _) => serde_json::json!({ "rfilename": name }),
                (false, false) => {
                    serde_json::json!({ "rfilename": name, "size": bytes.len(), "blobId": &hash(bytes)[..40] })
                }
                (false, true) => serde_json::json!({
                    "rfilename": name, "size": bytes.len(), "blobId": &hash(name.as_bytes())[..40],
                    "lfs": { "sha256": hash(bytes), "size": bytes.len(), "pointerSize": 134 },
                }),
            })
            .collect();
        drop(state);
        let text = serde_json::json!({ "id": ID, "sha": commit, "siblings": siblings }).to_string();
        self.answer(200, "", text.as_bytes())
    }

    fn resolve(&mut self, request: &Seen, commit: &str, name: &str) -> std::io::Result<()> {
        let bytes = self.state.lock().unwrap().commits.get(commit).and_then(|files| files.get(name)).cloned();
        let Some(bytes) = bytes else {
            return self.answer(404, "X-Error-Code: EntryNotFound\r\n", b"no such file");
        };
        let mut headers = format!("X-Repo-Commit: {commit}\r\n");
        if is_large(name) {
            write!(headers, "X-Linked-Etag: \"{}\"\r\nX-Linked-Size: {}\r\n", hash(&bytes), bytes.len()).unwrap();
            write!(headers, "ETag: \"other\"\r\nLocation: {}/cdn/{commit}/{name}?Signature=1\r\n", self.cdn).unwrap();
            return self.answer(302, &headers, b"");
        }
        write!(headers, "ETag: W/\"{}\"\r\n", &hash(&bytes)[..40]).unwrap();
        if request.method == "HEAD" {
            return self.head(200, &headers, bytes.len());
        }
        self.content(request, commit, name, &headers)
    }

    /// A file's bytes, or those of a range, or what a fault makes of them.
    fn content(&mut self, request: &Seen, commit: &str, name: &str, headers: &str) -> std::io::Result<()> {
        let mut state = self.state.lock().unwrap();
        let mut bytes = state.commits[commit][name].clone();
        let of = |fault: &Fault| {
            use Fault::{Damage, Drop, NoRange, Stall};
            matches!(fault, Drop(n, _) | Stall(n, _) | Damage(n) | NoRange(n) if *n == name)
        };
        let fault = state.faults.iter().position(of).map(|i| state.faults.remove(i));
        let asked =
            request.range.as_ref().map(|r| r.trim_start_matches("bytes=").trim_end_matches('-').parse().unwrap());
        let start: usize = asked.filter(|_| !matches!(fault, Some(Fault::NoRange(_)))).unwrap_or(0);
        if matches!(fault, Some(Fault::Damage(_))) {
            bytes[start] ^= 1;
        }
        let part = bytes[start..].to_vec();
        let count = match fault {
            Some(Fault::Drop(_, count) | Fault::Stall(_, count)) => count.min(part.len()),
            _ => part.len(),
        };
        *state.sent.entry(name.to_owned()).or_default() += count;
        drop(state);
        let range = format!("{headers}Content-Range: bytes {start}-{}/{}\r\n", bytes.len() - 1, bytes.len());
        let (status, headers) = if start > 0 { (206, range.as_str()) } else { (200, headers) };
        self.head(status, headers, part.len())?;
        self.stream.write_all(&part[..count])?;
        if matches!(fault, Some(Fault::Stall(..))) {
            thread::sleep(Duration::from_secs(3));
        }
        self.stream.shutdown(Shutdown::Write)
    }

    fn answer(&mut self, status: u16, headers: &str, body: &[u8]) -> std::io::Result<()> {
        self.head(status, headers, body.len())?;
        self.stream.write_all(body)
    }

    fn head(&mut self, status: u16, headers: &str, length: usize) -> std::io::Result<()> {
        write!(self.stream, "HTTP/1.1 {status} X\r\nConnection: close\r\nContent-Length: {length}\r\n{headers}\r\n")
    }
}

fn is_large(name: &str) -> bool {
    name.ends_with(".safetensors") || name.ends_with(".gguf")
}

fn hash(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}
