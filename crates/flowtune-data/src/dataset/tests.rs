use std::fs;

use super::*;
use crate::image::tests::png;

fn folder(files: &[(&str, &[u8])]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (name, bytes) in files {
        fs::write(dir.path().join(name), bytes).unwrap();
    }
    dir
}

fn open(dir: &tempfile::TempDir, on_bad_file: OnBadFile) -> Result<Dataset> {
    Dataset::open(&[Source::new(dir.path())], &DatasetOptions { on_bad_file, ..DatasetOptions::default() })
}

#[test]
fn images_come_in_natural_order_and_other_files_are_ignored() {
    let image = png(2, 2, [1, 2, 3, 255]);
    let files: &[(&str, &[u8])] = &[
        ("10.png", &image),
        ("10.txt", b"ten"),
        ("9.PNG", &image),
        ("9.txt", "\u{feff} nine \n".as_bytes()),
        ("CREDITS.md", b"thanks"),
        ("orphan.txt", b"no image"),
        ("._9.png", b"finder"),
    ];
    let captions: Vec<_> =
        open(&folder(files), OnBadFile::Fail).unwrap().items.into_iter().map(|i| i.captions.concat()).collect();
    assert_eq!(captions, ["nine", "ten"]);
}

#[test]
fn bad_files_are_named_or_skipped() {
    let image = png(2, 2, [1, 2, 3, 255]);
    type Files<'a> = &'a [(&'a str, &'a [u8])];
    let cases: [(&str, Files, &str); 5] = [
        ("2.png", &[("2.png", b"not an image"), ("2.txt", b"two")], "not an image"),
        ("2.png", &[("2.png", &image[..20]), ("2.txt", b"two")], "not an image"),
        ("2.png", &[("2.png", &image)], "has no caption"),
        ("2.txt", &[("2.png", &image), ("2.txt", b" \n ")], "is empty"),
        ("2.txt", &[("2.png", &image), ("2.txt", &[0xff, 0xfe])], "not UTF-8"),
    ];
    for (culprit, bad, reason) in cases {
        let good: [(&str, &[u8]); 2] = [("1.png", &image), ("1.txt", b"one")];
        let dir = folder(&[&good, bad].concat());
        let error = open(&dir, OnBadFile::Fail).unwrap_err();
        assert_eq!(error.code(), "DATA_UNREADABLE");
        assert!(error.to_string().contains(culprit) && error.to_string().contains(reason), "{error}");
        let dataset = open(&dir, OnBadFile::Skip).unwrap();
        assert_eq!((dataset.items.len(), dataset.skipped.len()), (1, 1));
        assert!(dataset.skipped[0].path.ends_with(culprit), "{:?}", dataset.skipped);
    }
}

fn captions_of(source: &Path, options: &DatasetOptions) -> Vec<(String, String)> {
    let name = |item: &Item| item.image.file_name().unwrap().to_string_lossy().into_owned();
    let dataset = Dataset::open(&[Source::new(source)], options).unwrap();
    dataset.items.iter().map(|item| (name(item), item.captions.concat())).collect()
}

#[test]
fn tables_give_captions() {
    let image = png(2, 2, [1, 2, 3, 255]);
    let images: [(&str, &[u8]); 4] = [("b.png", &image), ("a.png", &image), ("c.png", &image), ("c.txt", b"beside")];
    let jsonl = "\u{feff}{\"file_name\": \"b.png\", \"text\": \" of b \"}\n\n{\"file_name\": \"a.png\", \"caption\": \"of a\", \"n\": 1}\n";
    let csv = "file_name,text,source\r\nb.png,\" of b \",x\r\na.png,of a,\"y, z\"\r\n";
    for (table, text) in [("metadata.jsonl", jsonl), ("metadata.csv", csv)] {
        let dir = folder(&[&images[..], &[(table, text.as_bytes())]].concat());
        let pair = |a: &str, b: &str| (a.to_owned(), b.to_owned());
        let named = vec![pair("b.png", "of b"), pair("a.png", "of a")];
        assert_eq!(captions_of(&dir.path().join(table), &DatasetOptions::default()), named, "{table}");
        // The folder's other images have theirs beside them.
        let all = [named, vec![pair("c.png", "beside")]].concat();
        assert_eq!(captions_of(dir.path(), &DatasetOptions::default()), all, "{table}");
    }
}

#[test]
fn rows_that_cannot_be_read_are_told_by_their_line() {
    let image = png(2, 2, [1, 2, 3, 255]);
    let good = "{\"file_name\": \"a.png\", \"text\": \"a\"}\n";
    let cases = [
        ("t.jsonl", format!("{good}{{\"text\": \"no file\"}}\n"), "line 2"),
        ("t.jsonl", format!("{good}not json\n"), "line 2"),
        ("t.jsonl", format!("{good}{{\"file_name\": \"a.png\", \"text\": 3}}\n"), "line 2"),
        ("t.jsonl", format!("{good}{{\"file_name\": \"absent.png\", \"text\": \"x\"}}\n"), "absent.png"),
        ("t.csv", "file_name,text\na.png,a\n,b\n".to_owned(), "line 3"),
        ("t.csv", "file_name,text\na.png,a\nb.png,x,y\n".to_owned(), "line 3"),
    ];
    for (name, text, told) in cases {
        let dir = folder(&[("a.png", &image), (name, text.as_bytes())]);
        let source = [Source::new(dir.path().join(name))];
        let error = Dataset::open(&source, &DatasetOptions::default()).unwrap_err();
        assert_eq!(error.code(), "DATA_UNREADABLE");
        assert!(error.to_string().contains(told), "{error}");
        let skipping = DatasetOptions { on_bad_file: OnBadFile::Skip, ..DatasetOptions::default() };
        let dataset = Dataset::open(&source, &skipping).unwrap();
        assert_eq!((dataset.items.len(), dataset.skipped.len()), (1, 1), "{text}");
    }
    let dir = folder(&[("a.png", &image), ("t.csv", b"name,words\na.png,a\n"), ("empty.jsonl", b"\n")]);
    for (name, told) in [("t.csv", "file_name"), ("empty.jsonl", "no rows"), ("none.csv", "does not exist")] {
        let error = Dataset::open(&[Source::new(dir.path().join(name))], &DatasetOptions::default()).unwrap_err();
        assert!(error.to_string().contains(told), "{error}");
    }
}

#[test]
fn the_trigger_word_is_in_every_caption_and_the_default_where_there_is_none() {
    let image = png(2, 2, [1, 2, 3, 255]);
    let files: [(&str, &[u8]); 7] = [
        ("1.png", &image),
        ("1.txt", b"a photo of [trigger] asleep"),
        ("2.png", &image),
        ("2.txt", b"on the beach"),
        ("3.png", &image),
        ("3.txt", b"ohwx at home"),
        ("4.png", &image),
    ];
    let options = DatasetOptions {
        trigger: Some("ohwx".to_owned()),
        default_caption: Some("photo of [trigger]".to_owned()),
        ..DatasetOptions::default()
    };
    let captions: Vec<_> = captions_of(folder(&files).path(), &options).into_iter().map(|(_, text)| text).collect();
    assert_eq!(captions, ["a photo of ohwx asleep", "ohwx, on the beach", "ohwx at home", "photo of ohwx"]);
}

#[test]
fn folders_without_images_are_errors_even_when_skipping() {
    let empty = folder(&[("notes.txt", b"x")]);
    let all_bad = folder(&[("1.png", b"x"), ("1.txt", b"one")]);
    for (folder, reason) in [
        (empty.path().to_path_buf(), "has no images"),
        (empty.path().join("absent"), "does not exist"),
        (empty.path().join("notes.txt"), "is not a folder"),
        (all_bad.path().to_path_buf(), "no usable image"),
    ] {
        let options = DatasetOptions { on_bad_file: OnBadFile::Skip, ..DatasetOptions::default() };
        let error = Dataset::open(&[Source::new(folder)], &options).unwrap_err();
        assert_eq!(error.code(), "DATA_UNREADABLE");
        assert!(error.to_string().contains(reason), "{error}");
    }
}

#[test]
fn held_out_images_are_spread_and_leave_the_rest() {
    let item = |i: usize| Item { image: format!("{i}.png").into(), captions: vec![i.to_string()], ..Item::default() };
    let mut dataset = Dataset { items: (0..10).map(item).collect(), ..Dataset::default() };
    let held: Vec<_> = dataset.split_off(2).unwrap().items.into_iter().map(|i| i.captions.concat()).collect();
    assert_eq!(held, ["2", "7"]);
    assert_eq!(dataset.items.len(), 8);
    assert_eq!(dataset.split_off(8).unwrap_err().code(), "INVALID_ARGUMENT");
    assert_eq!(dataset.items.len(), 8);
}

#[test]
fn an_image_may_have_several_captions() {
    let image = png(2, 2, [1, 2, 3, 255]);
    let table = b"{\"file_name\": \"a.png\", \"text\": [\"one\", \" two \", \"\"]}";
    let dir =
        folder(&[("a.png", &image), ("b.png", &image), ("b.txt", b"three\n\n four\n"), ("metadata.jsonl", table)]);
    let captions = |caption_per_line| {
        let options = DatasetOptions { caption_per_line, ..DatasetOptions::default() };
        let dataset = Dataset::open(&[Source::new(dir.path())], &options).unwrap();
        dataset.items.into_iter().map(|item| item.captions).collect::<Vec<_>>()
    };
    assert_eq!(captions(false), [vec!["one", "two"], vec!["three\n\n four"]]);
    assert_eq!(captions(true), [vec!["one", "two"], vec!["three", "four"]]);
}

/// Two images with captions, of which the first has a mask and two references, the second one reference.
fn with_companions(table: &str) -> tempfile::TempDir {
    let image = png(2, 2, [1, 2, 3, 255]);
    let dir = folder(&[
        ("a.png", &image),
        ("a.txt", b"a"),
        ("b.png", &image),
        ("b.txt", b"b"),
        ("t.jsonl", table.as_bytes()),
    ]);
    for file in ["masks/a.png", "first/a.png", "first/b.png", "second/a.jpg", "empty/c.png"] {
        let path = dir.path().join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, &image).unwrap();
    }
    dir
}

#[test]
fn masks_and_references_are_files_of_the_same_name() {
    let dir = with_companions("");
    let path = |name: &str| dir.path().join(name);
    let source = Source {
        masks: Some(path("masks")),
        references: vec![path("first"), path("second")],
        ..Source::new(dir.path())
    };
    let items = Dataset::open(std::slice::from_ref(&source), &DatasetOptions::default()).unwrap().items;
    assert_eq!(items[0].mask, Some(path("masks/a.png")));
    assert_eq!(items[0].references, [path("first/a.png"), path("second/a.jpg")]);
    assert_eq!((&items[1].mask, &items[1].references[..]), (&None, &[path("first/b.png")][..]));

    fs::remove_file(path("first/b.png")).unwrap();
    let error = Dataset::open(std::slice::from_ref(&source), &DatasetOptions::default()).unwrap_err();
    assert!(error.to_string().contains("b.png: has no reference image"), "{error}");
    let skipping = DatasetOptions { on_bad_file: OnBadFile::Skip, ..DatasetOptions::default() };
    assert_eq!(Dataset::open(std::slice::from_ref(&source), &skipping).unwrap().items.len(), 1);
    let error = Dataset::open(&[Source { masks: Some(path("empty")), ..source }], &skipping).unwrap_err();
    assert!(error.to_string().contains("empty: has no image with the name"), "{error}");
}

#[test]
fn a_table_names_masks_and_references() {
    let rows = r#"{"file_name": "a.png", "text": "a", "mask": "masks/a.png", "references": ["first/a.png", "first/b.png"]}
{"file_name": "b.png", "text": "b", "reference": "second/a.jpg"}"#;
    let dir = with_companions(rows);
    let path = |name: &str| dir.path().join(name);
    let open = || Dataset::open(&[Source::new(path("t.jsonl"))], &DatasetOptions::default());
    let items = open().unwrap().items;
    assert_eq!((items[0].mask.clone(), items[1].mask.clone()), (Some(path("masks/a.png")), None));
    assert_eq!(items[0].references, [path("first/a.png"), path("first/b.png")]);
    assert_eq!(items[1].references, [path("second/a.jpg")]);
    fs::write(path("second/a.jpg"), "no image").unwrap();
    assert!(open().unwrap_err().to_string().contains("second/a.jpg"));
}
