//! Tables that somebody damaged: an error that names the table or its file, never a panic.

use std::fs;
use std::path::Path;

use proptest::prelude::*;

use super::{Dataset, DatasetOptions, OnBadFile, Source};

/// Opens a table beside one real image, both ways of taking what is wrong.
fn open(name: &str, table: &[u8]) {
    let folder = tempfile::tempdir().unwrap();
    let photo = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../__test__/fixtures/photos/astronaut.jpg");
    fs::copy(photo, folder.path().join("a.jpg")).unwrap();
    let path = folder.path().join(name);
    fs::write(&path, table).unwrap();
    for on_bad_file in [OnBadFile::Fail, OnBadFile::Skip] {
        let options = DatasetOptions { on_bad_file, ..DatasetOptions::default() };
        match Dataset::open(&[Source::new(&path)], &options) {
            Ok(dataset) => assert!(dataset.items.iter().all(|item| !item.captions.is_empty() && item.image.is_file())),
            Err(error) => assert_eq!(error.code(), "DATA_UNREADABLE", "{error}"),
        }
    }
}

/// Rows as tables have them, and what else JSON allows.
fn json_row() -> impl Strategy<Value = String> {
    let key = prop::sample::select(vec!["file_name", "image", "text", "caption", "mask", "references", "x"]);
    let value = prop_oneof![
        Just("\"a.jpg\"".to_owned()),
        Just("\"../../a.jpg\"".to_owned()),
        Just("\"\\u0000\"".to_owned()),
        Just("[\"a.jpg\", \"\"]".to_owned()),
        Just("[[[]]]".to_owned()),
        Just("null".to_owned()),
        Just("1e999".to_owned()),
        "\"[ -~]{0,8}\"",
    ];
    prop::collection::vec((key, value), 0..4).prop_map(|fields| {
        let fields: Vec<_> = fields.into_iter().map(|(key, value)| format!("\"{key}\": {value}")).collect();
        format!("{{{}}}", fields.join(", "))
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
        open("t.jsonl", &bytes);
        open("t.csv", &[b"file_name,text\n", &bytes[..]].concat());
    }

    #[test]
    fn rows_of_json(rows in prop::collection::vec(json_row(), 1..4)) {
        open("t.jsonl", rows.join("\n").as_bytes());
    }

    #[test]
    fn rows_of_csv(header in "(file_name|image|text|,|\"|\n){1,6}", rows in "(a.jpg|\"|,|\n|\r|[a-z]|\u{e4}){0,20}") {
        open("t.csv", format!("{header}\n{rows}").as_bytes());
    }

    #[test]
    fn json_that_is_deep(depth in 1..4000usize) {
        open("t.jsonl", format!("{{\"file_name\": {}1{}}}", "[".repeat(depth), "]".repeat(depth)).as_bytes());
    }
}
