//! Against a hub on loopback.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::path::Path;
use std::thread;

use super::*;
use crate::testing::{Fault, Files, ID, Seen, TestHub, commit};

pub(super) const TRANSFORMER: &str = "transformer/diffusion_pytorch_model.safetensors";
pub(super) const CONFIG: &str = "transformer/config.json";

/// The pipeline of the parity fixtures, with what a repository has beside it.
pub(super) fn pipeline() -> Files {
    let mut files = BTreeMap::new();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../__test__/fixtures/parity/pipeline/pipeline");
    read_folder(&root, &root, &mut files);
    for name in ["README.md", "teaser.png", "flux-2-tiny.safetensors", "tokenizer/picture.png", "other/config.json"] {
        files.insert(name.to_owned(), b"not needed".to_vec());
    }
    files
}

fn read_folder(root: &Path, folder: &Path, files: &mut Files) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => read_folder(root, &path, files),
            false => {
                let name = path.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
                files.insert(name, fs::read(&path).unwrap());
            }
        }
    }
}

/// A hub with the pipeline, and an empty cache.
pub(super) struct Setup {
    pub(super) hub: TestHub,
    cache: tempfile::TempDir,
}

impl Setup {
    pub(super) fn new() -> Self {
        Self { hub: TestHub::new(pipeline()), cache: tempfile::tempdir().unwrap() }
    }

    pub(super) fn client(&self) -> Hub {
        Hub::new(self.hub.settings(self.cache.path()))
    }

    pub(super) fn pipeline(&self, revision: Option<&str>) -> Result<Snapshot> {
        self.client().pipeline(&model(revision), &Part::ALL, &())
    }

    fn message(&self, code: &str) -> String {
        let error = self.pipeline(None).unwrap_err();
        assert_eq!(error.code(), code, "{error}");
        error.to_string()
    }

    fn size(&self, name: &str) -> usize {
        self.hub.state().commits[&commit('a')][name].len()
    }

    pub(super) fn repo(&self) -> PathBuf {
        self.cache.path().join("models--tests--tiny-flux")
    }

    /// Names in `blobs/` that end so.
    fn blobs(&self, end: &str) -> Vec<String> {
        let entries = fs::read_dir(self.repo().join("blobs")).into_iter().flatten();
        let names = entries.map(|e| e.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name.ends_with(end)).collect()
    }
}

pub(super) fn model(revision: Option<&str>) -> HubModel {
    HubModel { id: ID.to_owned(), revision: revision.map(str::to_owned) }
}

fn ranges(seen: &[Seen]) -> Vec<&str> {
    seen.iter().filter(|s| s.is_cdn).filter_map(|s| s.range.as_deref()).collect()
}

/// Keeps what it hears; stops at a stage that begins so, once bytes have come.
#[derive(Default)]
struct Ear {
    progress: RefCell<Vec<(String, u64, u64)>>,
    warnings: RefCell<Vec<String>>,
    stop_at: Option<&'static str>,
    stopped: Cell<bool>,
}

impl Observer for Ear {
    fn progress(&self, stage: &str, done: u64, total: u64) {
        self.progress.borrow_mut().push((stage.to_owned(), done, total));
        self.stopped.set(self.stopped.get() || self.stop_at.is_some_and(|stop| stage.starts_with(stop)));
    }

    fn warning(&self, message: &str) {
        self.warnings.borrow_mut().push(message.to_owned());
    }

    fn is_cancelled(&self) -> bool {
        self.stopped.get()
    }
}

#[test]
fn a_whole_pipeline_comes_and_nothing_else_and_only_once() {
    let setup = Setup::new();
    let first = setup.pipeline(None).unwrap();
    assert_eq!(first.folder, setup.repo().join("snapshots").join(commit('a')));
    let mut here = Files::new();
    read_folder(&first.folder, &first.folder, &mut here);
    let mut needed = pipeline();
    needed.retain(|_, bytes| bytes != b"not needed");
    assert!(here == needed, "{:?}", here.keys());
    assert_eq!((first.files, first.downloaded), (needed.len(), needed.values().map(|b| b.len() as u64).sum()));
    assert_eq!(fs::read_to_string(setup.repo().join("refs/main")).unwrap(), commit('a'));
    assert!(fs::symlink_metadata(first.folder.join(TRANSFORMER)).unwrap().is_symlink());
    assert!(setup.blobs(".incomplete").is_empty());
    setup.hub.seen();

    // A branch may have moved: one question. A commit cannot.
    let again = setup.pipeline(None).unwrap();
    assert_eq!((again.downloaded, again.folder), (0, first.folder.clone()));
    assert_eq!(setup.hub.seen().len(), 1);
    assert_eq!(setup.pipeline(Some(&first.commit)).unwrap().downloaded, 0);
    assert!(setup.hub.seen().is_empty());
}

#[test]
fn only_the_parts_that_are_asked_for_come() {
    let setup = Setup::new();
    let got = setup.client().pipeline(&model(None), &Part::ENCODERS, &()).unwrap();
    assert!(!got.folder.join(TRANSFORMER).exists());
    assert!(got.folder.join(CONFIG).exists() && got.folder.join("tokenizer/tokenizer.json").exists());
    let none = Setup::new();
    let got = none.client().pipeline(&model(None), &[], &()).unwrap();
    assert!(got.folder.join("text_encoder/config.json").exists() && !got.folder.join("tokenizer").exists());
}

#[test]
fn shards_come_as_their_index_names_them() {
    let setup = Setup::new();
    let index = "transformer/diffusion_pytorch_model.safetensors.index.json";
    {
        let mut state = setup.hub.state();
        let files = state.commits.get_mut(&commit('a')).unwrap();
        files.insert(index.into(), br#"{"weight_map": {"a": "s-1.safetensors", "b": "s-2.safetensors"}}"#.to_vec());
        files.insert("transformer/s-1.safetensors".into(), vec![1; 10]);
        files.insert("transformer/s-2.safetensors".into(), vec![2; 10]);
    }
    let got = setup.pipeline(None).unwrap();
    assert_eq!(fs::read(got.folder.join("transformer/s-2.safetensors")).unwrap(), [2; 10]);
    assert!(got.folder.join(index).exists() && !got.folder.join(TRANSFORMER).exists());
}

#[test]
fn a_lost_connection_goes_on_where_it_ended() {
    let setup = Setup::new();
    let size = setup.size(TRANSFORMER);
    setup.hub.fail(&[Fault::Drop(TRANSFORMER, 1000), Fault::Drop(TRANSFORMER, 0), Fault::Drop(TRANSFORMER, 200_000)]);
    setup.pipeline(None).unwrap();
    assert_eq!(setup.hub.sent(TRANSFORMER), size, "no byte twice");
    assert_eq!(ranges(&setup.hub.seen()), ["bytes=1000-", "bytes=1000-", "bytes=201000-"]);
}

#[test]
fn what_came_before_giving_up_stays_for_the_next_attempt() {
    let setup = Setup::new();
    setup.hub.fail(&[
        Fault::Drop(TRANSFORMER, 5000),
        Fault::Drop(TRANSFORMER, 0),
        Fault::Drop(TRANSFORMER, 0),
        Fault::Drop(TRANSFORMER, 0),
    ]);
    let message = setup.message("HUB_UNAVAILABLE");
    assert!(message.contains("what is downloaded stays"), "{message}");
    assert_eq!(setup.blobs(".incomplete").len(), 1);
    setup.pipeline(None).unwrap();
    assert_eq!(setup.hub.sent(TRANSFORMER), setup.size(TRANSFORMER));
}

#[test]
fn a_silent_connection_is_given_up_and_another_goes_on() {
    let setup = Setup::new();
    setup.hub.fail(&[Fault::Stall(TRANSFORMER, 3000)]);
    setup.pipeline(None).unwrap();
    assert_eq!(setup.hub.sent(TRANSFORMER), setup.size(TRANSFORMER));
}

#[test]
fn a_host_without_ranges_sends_the_file_again() {
    let setup = Setup::new();
    setup.hub.fail(&[Fault::Drop(TRANSFORMER, 3000), Fault::NoRange(TRANSFORMER)]);
    setup.pipeline(None).unwrap();
    assert_eq!(setup.hub.sent(TRANSFORMER), 3000 + setup.size(TRANSFORMER));
}

#[test]
fn a_busy_hub_and_an_expired_link_are_asked_again() {
    let setup = Setup::new();
    setup.hub.fail(&[
        Fault::Status("/revision/", 503, ""),
        Fault::Status("/revision/", 429, "Retry-After: 0\r\n"),
        Fault::Status("/cdn/", 403, ""),
    ]);
    setup.pipeline(None).unwrap();
}

#[test]
fn a_file_that_was_left_whole_but_not_yet_named_is_not_fetched_again() {
    let setup = Setup::new();
    setup.hub.fail(&[
        Fault::Drop(TRANSFORMER, 10),
        Fault::Drop(TRANSFORMER, 0),
        Fault::Drop(TRANSFORMER, 0),
        Fault::Drop(TRANSFORMER, 0),
    ]);
    setup.message("HUB_UNAVAILABLE");
    let partial = setup.repo().join("blobs").join(&setup.blobs(".incomplete")[0]);
    fs::write(&partial, &pipeline()[TRANSFORMER]).unwrap();
    setup.pipeline(None).unwrap();
    assert_eq!(setup.hub.sent(TRANSFORMER), 10);
}

#[test]
fn damaged_content_is_deleted_and_said_to_be() {
    let setup = Setup::new();
    setup.hub.fail(&[Fault::Damage(TRANSFORMER)]);
    let message = setup.message("HUB_CORRUPT");
    assert!(message.contains("SHA-256") && message.contains(TRANSFORMER), "{message}");
    assert!(setup.blobs(".incomplete").is_empty());
    assert!(!setup.repo().join("snapshots").join(commit('a')).join(TRANSFORMER).exists());
    let got = setup.pipeline(None).unwrap();
    assert_eq!(fs::read(got.folder.join(TRANSFORMER)).unwrap(), pipeline()[TRANSFORMER]);
}

#[test]
fn a_part_of_something_else_is_found_by_the_hash() {
    let setup = Setup::new();
    setup.hub.fail(&[
        Fault::Drop(TRANSFORMER, 1000),
        Fault::Drop(TRANSFORMER, 0),
        Fault::Drop(TRANSFORMER, 0),
        Fault::Drop(TRANSFORMER, 0),
    ]);
    setup.message("HUB_UNAVAILABLE");
    let partial = setup.repo().join("blobs").join(&setup.blobs(".incomplete")[0]);
    fs::write(&partial, vec![7; 2000]).unwrap();
    setup.message("HUB_CORRUPT");
    // Longer than the file can be: begun again.
    fs::write(&partial, vec![7; setup.size(TRANSFORMER) + 1]).unwrap();
    setup.pipeline(None).unwrap();
}

#[test]
fn refusals_say_what_to_do() {
    let setup = Setup::new();
    let cases: [(Fault, &str, &[&str]); 7] = [
        (
            Fault::Status("/resolve/", 403, "X-Error-Code: GatedRepo\r\n"),
            "HUB_GATED",
            &["accept its licence", "HF_TOKEN", ID],
        ),
        (
            Fault::Status("/resolve/", 401, "X-Error-Code: GatedRepo\r\n"),
            "HUB_GATED",
            &["accept its licence", "HF_TOKEN", ID],
        ),
        (Fault::Status("/revision/", 403, ""), "HUB_GATED", &["accept its licence"]),
        (Fault::Status("/revision/", 401, ""), "HUB_GATED", &["whether there is such a model", "HF_TOKEN"]),
        (
            Fault::Status("/revision/", 401, "X-Error-Code: RepoNotFound\r\n"),
            "HUB_NOT_FOUND",
            &["no folder", "HF_TOKEN"],
        ),
        (Fault::Status("/revision/", 404, ""), "HUB_NOT_FOUND", &["no folder `tests/tiny-flux` here", "no such model"]),
        (Fault::Status("/revision/", 418, ""), "HUB_UNAVAILABLE", &["418"]),
    ];
    for (fault, code, words) in cases {
        setup.hub.fail(std::slice::from_ref(&fault));
        let message = setup.message(code);
        for word in words {
            assert!(message.contains(word), "{fault:?}: {message}");
        }
        // The page is the endpoint's, whatever that is.
        assert!(
            message.contains(&setup.hub.settings(Path::new("")).endpoint) && !message.contains("huggingface"),
            "{message}"
        );
    }
    let client = Hub::new(Settings { token: Some("hf_secret".into()), ..setup.hub.settings(setup.cache.path()) });
    setup.hub.fail(&[Fault::Status("/revision/", 401, "")]);
    let message = client.pipeline(&model(None), &[], &()).unwrap_err().to_string();
    assert!(message.contains("does not accept the token") && !message.contains("hf_secret"), "{message}");
}

#[test]
fn unknown_names_are_answered_with_known_ones() {
    let setup = Setup::new();
    let client = setup.client();
    let message = |result: Result<Snapshot>| {
        let error = result.unwrap_err();
        assert_eq!(error.code(), "HUB_NOT_FOUND", "{error}");
        error.to_string()
    };
    let wrong = HubModel { id: "tests/tiny-flx".into(), revision: None };
    let said = message(client.pipeline(&wrong, &[], &()));
    assert!(said.ends_with("; did you mean tests/tiny-flux?"), "{said}");
    let said = message(client.pipeline(&model(Some("v2")), &[], &()));
    assert!(said.contains("no revision `v2`") && said.ends_with("; it has main, v1"), "{said}");
    let file = HubFile { model: model(None), name: "flux-2-tny.safetensors".into() };
    let said = message(client.file(&file, &()).map(|(_, snapshot)| snapshot));
    assert!(
        said.contains("no file `tests/tiny-flux/flux-2-tny.safetensors` here")
            && said.contains("did you mean flux-2-tiny.safetensors?"),
        "{said}"
    );
    setup.hub.state().commits.get_mut(&commit('a')).unwrap().remove(MODEL_INDEX);
    let said = message(client.pipeline(&model(None), &[], &()));
    assert!(said.contains("no pipeline in diffusers layout"), "{said}");
}

#[test]
fn one_file_comes_alone() {
    let setup = Setup::new();
    let file = HubFile { model: model(None), name: "flux-2-tiny.safetensors".into() };
    let (path, snapshot) = setup.client().file(&file, &()).unwrap();
    assert_eq!(fs::read(path).unwrap(), b"not needed");
    assert_eq!((snapshot.files, snapshot.downloaded), (1, 10));
}

#[test]
fn offline_takes_what_is_here_and_names_what_is_not() {
    let setup = Setup::new();
    let offline = || setup.client().offline();
    let absent = offline().pipeline(&model(None), &Part::ALL, &()).unwrap_err();
    assert_eq!(absent.code(), "HUB_UNAVAILABLE");
    setup.client().pipeline(&model(None), &Part::ENCODERS, &()).unwrap();
    setup.hub.seen();
    let absent = offline().pipeline(&model(None), &Part::ALL, &()).unwrap_err();
    assert_eq!(absent.code(), "HUB_UNAVAILABLE");
    assert!(absent.to_string().contains(TRANSFORMER), "{absent}");
    offline().pipeline(&model(None), &Part::ENCODERS, &()).unwrap();

    // A cache that another program filled has no listing.
    fs::remove_dir_all(setup.repo().join("trees")).unwrap();
    offline().pipeline(&model(None), &Part::ENCODERS, &()).unwrap();
    let absent = offline().pipeline(&model(None), &Part::ALL, &()).unwrap_err();
    assert_eq!(absent.code(), "HUB_UNAVAILABLE");
    assert!(absent.to_string().contains("transformer/"), "{absent}");
    assert!(setup.hub.seen().is_empty());
}

#[test]
fn a_hub_that_is_down_is_replaced_by_the_cache_with_a_warning() {
    let setup = Setup::new();
    setup.client().pipeline(&model(None), &Part::ENCODERS, &()).unwrap();
    let down = Hub::new(Settings { endpoint: "http://127.0.0.1:9".into(), ..setup.hub.settings(setup.cache.path()) });
    let ear = Ear::default();
    down.pipeline(&model(None), &Part::ENCODERS, &ear).unwrap();
    assert!(ear.warnings.borrow()[0].contains(&commit('a')), "{:?}", ear.warnings);
    let error = down.pipeline(&model(None), &Part::ALL, &()).unwrap_err();
    assert!(error.to_string().contains(TRANSFORMER) && error.to_string().contains("cannot be reached"), "{error}");
    let elsewhere = HubModel { id: "tests/other".into(), revision: None };
    let error = down.pipeline(&elsewhere, &[], &()).unwrap_err();
    assert_eq!(error.code(), "HUB_UNAVAILABLE");
    assert!(error.to_string().contains("no folder `tests/other` here, and http://127.0.0.1:9 cannot"), "{error}");
}

#[test]
fn a_commit_stays_when_the_branch_moves() {
    let setup = Setup::new();
    let old = setup.pipeline(None).unwrap();
    {
        let mut state = setup.hub.state();
        let mut files = state.commits[&commit('a')].clone();
        files.insert(CONFIG.into(), b"{}".to_vec());
        state.commits.insert(commit('b'), files);
        state.refs.insert("main".into(), commit('b'));
        state.refs.insert("refs/pr/1".into(), commit('a'));
    }
    let new = setup.pipeline(None).unwrap();
    // The blobs of all other files are here.
    assert_eq!((new.commit.as_str(), new.downloaded), (commit('b').as_str(), 2));
    assert_eq!(fs::read(new.folder.join(CONFIG)).unwrap(), b"{}");
    assert_eq!(setup.pipeline(Some(&old.commit)).unwrap().folder, old.folder);
    assert_eq!(setup.pipeline(Some("refs/pr/1")).unwrap().folder, old.folder);
    assert_eq!(fs::read(old.folder.join(CONFIG)).unwrap(), pipeline()[CONFIG]);
}

#[test]
fn the_token_goes_to_the_hub_alone() {
    let setup = Setup::new();
    let client = Hub::new(Settings { token: Some("hf_secret".into()), ..setup.hub.settings(setup.cache.path()) });
    client.pipeline(&model(None), &Part::ALL, &()).unwrap();
    let seen = setup.hub.seen();
    assert!(seen.iter().any(|request| request.is_cdn));
    for request in seen {
        assert_eq!(request.token.is_some(), !request.is_cdn, "{request:?}");
    }
}

#[test]
fn hostile_names_never_leave_the_cache() {
    for name in ["transformer/../../../../evil.json", "transformer//etc/evil.json", "vae/..\\evil.json"] {
        let setup = Setup::new();
        setup.hub.state().commits.get_mut(&commit('a')).unwrap().insert(name.into(), b"evil".to_vec());
        let message = setup.message("HUB_CORRUPT");
        assert!(message.contains("would leave its folder"), "{message}");
        let mut here = Files::new();
        read_folder(setup.cache.path(), setup.cache.path(), &mut here);
        assert!(here.values().all(|bytes| bytes != b"evil"), "{name}: {:?}", here.keys());
    }
}

#[test]
fn a_hub_whose_commit_or_etag_is_a_path_is_not_believed() {
    let setup = Setup::new();
    let evil = Fault::Status("/resolve/", 200, "ETag: \"../../../evil\"\r\n");
    setup.hub.fail(&[evil]);
    setup.message("HUB_UNAVAILABLE");
    setup.hub.state().refs.insert("main".into(), "../../evil".into());
    setup.hub.state().commits.insert("../../evil".into(), pipeline());
    fs::remove_dir_all(setup.repo()).unwrap();
    let message = setup.message("HUB_UNAVAILABLE");
    assert!(message.contains("no commit"), "{message}");
}

#[test]
fn a_page_instead_of_an_answer_is_explained() {
    let setup = Setup::new();
    setup.hub.fail(&[Fault::Status("/revision/", 200, "Content-Type: text/html\r\n")]);
    let message = setup.message("HUB_UNAVAILABLE");
    assert!(message.contains("does not answer as a hub"), "{message}");
}

#[test]
fn a_renamed_model_is_found_and_a_hub_without_sizes_will_do() {
    let setup = Setup::new();
    setup.hub.state().former_id = Some("tests/old-name");
    setup.hub.state().without_blobs = true;
    let old = HubModel { id: "tests/old-name".into(), revision: None };
    let got = setup.client().pipeline(&old, &Part::ALL, &()).unwrap();
    assert_eq!(fs::read(got.folder.join(TRANSFORMER)).unwrap(), pipeline()[TRANSFORMER]);
    assert!(!setup.cache.path().join("models--tests--old-name/trees").exists());
}

#[test]
fn two_at_once_fetch_each_file_once() {
    let setup = Setup::new();
    let sums: Vec<u64> = thread::scope(|scope| {
        let start = || scope.spawn(|| setup.pipeline(None).unwrap().downloaded);
        let threads = [start(), start(), start()];
        threads.map(|thread| thread.join().unwrap()).into()
    });
    let needed: u64 = pipeline().values().filter(|b| *b != b"not needed").map(|b| b.len() as u64).sum();
    assert_eq!(sums.iter().sum::<u64>(), needed);
    assert_eq!(setup.hub.state().sent.values().sum::<usize>() as u64, needed);
}

#[test]
fn progress_ends_at_the_total_and_a_stop_keeps_what_came() {
    let setup = Setup::new();
    let ear = Ear::default();
    setup.client().pipeline(&model(None), &Part::ALL, &ear).unwrap();
    let progress = ear.progress.borrow();
    let size = setup.size(TRANSFORMER) as u64;
    assert!(progress.contains(&(format!("downloading {TRANSFORMER}"), size, size)), "{progress:?}");
    assert!(progress.iter().all(|(_, done, total)| done <= total));
    let small: Vec<_> = progress.iter().filter(|(stage, ..)| stage.starts_with("downloading configuration")).collect();
    assert!(small.last().is_some_and(|(_, done, total)| done == total && *total > 10_000), "{small:?}");

    let stopped = Setup::new();
    let ear = Ear { stop_at: Some("downloading transformer/"), ..Ear::default() };
    let error = stopped.client().pipeline(&model(None), &Part::ALL, &ear).unwrap_err();
    assert_eq!(error.code(), "CANCELLED");
    assert!(stopped.repo().join("snapshots").join(commit('a')).join(CONFIG).is_file());
    let partial = stopped.repo().join("blobs").join(&stopped.blobs(".incomplete")[0]);
    let came = fs::metadata(&partial).unwrap().len();
    assert!((1..size).contains(&came), "stopped at once: {came} of {size}");
    stopped.pipeline(None).unwrap();
}

#[test]
fn a_cache_that_cannot_be_written_is_an_io_error() {
    let setup = Setup::new();
    let file = setup.cache.path().join("file");
    fs::write(&file, "").unwrap();
    let client = Hub::new(setup.hub.settings(&file.join("cache")));
    let error = client.pipeline(&model(None), &[], &()).unwrap_err();
    assert_eq!(error.code(), "IO");
    assert!(error.to_string().contains("file"), "{error}");
}
