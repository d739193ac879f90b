//! The vocabularies of FLUX.2's text encoders: texts, ids and masks as diffusers' pipelines make them of a hundred prompts
//! in many scripts.
//!
//! The tokenizers in the fixture are the real ones less what these prompts do not touch, every token under its real id;
//! `tools/text_fixtures.py` makes them, checks that they give the ids of the whole ones, and says how to get those.

use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::{Value, json};

use super::{PromptStyle, PromptTokenizer};
use crate::folder::read_json;
use crate::testing::fixtures;

/// Tokens that the pipelines make of a prompt.
const TOKENS: usize = 512;

#[derive(Deserialize)]
struct Expected {
    /// What Mistral's tokenizer.json had as its pattern for years, which cuts words of some scripts elsewhere.
    old_pattern: Option<String>,
    prompts: Vec<Prompt>,
}

#[derive(Deserialize)]
struct Prompt {
    prompt: String,
    /// After the chat template.
    text: String,
    /// Without padding.
    ids: Vec<i64>,
    /// Where they differ.
    ids_with_old_pattern: Option<Vec<i64>>,
}

struct Family {
    name: &'static str,
    style: PromptStyle,
    pad_id: i64,
    pads_left: bool,
}

const KLEIN: Family = Family { name: "klein", style: PromptStyle::Klein, pad_id: 151_643, pads_left: false };
const DEV: Family = Family { name: "dev", style: PromptStyle::Dev, pad_id: 11, pads_left: true };

impl Family {
    fn expected(&self) -> Expected {
        read_json(&folder().join(self.name).with_extension("json")).unwrap()
    }

    fn check(&self, tokenizer: &Path, ids_of: impl Fn(&Prompt) -> &[i64]) {
        let tokenizer = PromptTokenizer::load(tokenizer, self.style).unwrap();
        let prompts = self.expected().prompts;
        assert!(prompts.len() >= 100);
        for case in &prompts {
            let got = tokenizer.encode(&[&case.prompt], None).unwrap();
            assert_eq!(got.texts, [case.text.as_str()], "{:?}", case.prompt);
            let (ids, mask) = self.padded(ids_of(case));
            assert_eq!(got.input_ids.as_slice::<i64>().unwrap(), ids, "{:?}", case.prompt);
            assert_eq!(got.attention_mask.as_slice::<i64>().unwrap(), mask, "{:?}", case.prompt);
        }
        let together: Vec<&str> = prompts.iter().map(|case| case.prompt.as_str()).collect();
        let rows: Vec<i64> = prompts.iter().flat_map(|case| self.padded(ids_of(case)).0).collect();
        let batch = tokenizer.encode(&together, None).unwrap();
        assert_eq!(
            (batch.input_ids.shape(), batch.input_ids.as_slice::<i64>().unwrap()),
            (&[prompts.len(), TOKENS][..], &rows[..])
        );
        let cut = batch.truncated.iter().filter(|&&cut| cut).count();
        assert!((4..10).contains(&cut), "{cut} prompts are longer than {TOKENS} tokens");
    }

    /// Ids and mask as they reach the encoder.
    fn padded(&self, ids: &[i64]) -> (Vec<i64>, Vec<i64>) {
        let padding = TOKENS - ids.len();
        let (pad, hidden, shown) = (vec![self.pad_id; padding], vec![0; padding], vec![1; ids.len()]);
        match self.pads_left {
            true => ([&pad, ids].concat(), [hidden, shown].concat()),
            false => ([ids, &pad].concat(), [shown, hidden].concat()),
        }
    }
}

fn folder() -> PathBuf {
    fixtures().join("../text")
}

#[test]
fn klein_reads_prompts_as_diffusers_does() {
    KLEIN.check(&folder().join("klein"), |case| &case.ids);
}

#[test]
fn dev_reads_prompts_as_diffusers_does() {
    DEV.check(&folder().join("dev"), |case| &case.ids);
}

#[test]
fn dev_follows_the_pattern_of_its_tokenizer_file() {
    let (source, changed) = (folder().join("dev"), tempfile::tempdir().unwrap());
    for name in ["tokenizer_config.json", "chat_template.jinja"] {
        fs::copy(source.join(name), changed.path().join(name)).unwrap();
    }
    let mut tokenizer: Value = read_json(&source.join("tokenizer.json")).unwrap();
    let pattern = &mut tokenizer["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"];
    assert!(pattern.is_string());
    *pattern = json!(DEV.expected().old_pattern.unwrap());
    fs::write(changed.path().join("tokenizer.json"), tokenizer.to_string()).unwrap();
    DEV.check(changed.path(), |case| case.ids_with_old_pattern.as_deref().unwrap_or(&case.ids));
}

#[test]
fn the_whole_vocabularies_too_where_they_are() {
    let Some(whole) = std::env::var_os("FLOWTUNE_TOKENIZERS") else {
        eprintln!("skipped: FLOWTUNE_TOKENIZERS names no folder that tools/text_fixtures.py --full has written");
        return;
    };
    for family in [KLEIN, DEV] {
        family.check(&Path::new(&whole).join(family.name), |case| &case.ids);
    }
}

#[test]
fn other_vocabulary_files_are_not_taken_for_a_tokenizer() {
    let dir = tempfile::tempdir().unwrap();
    for (file, expected) in
        [(None, "download"), (Some("tekken.json"), "tekken.json"), (Some("vocab.json"), "vocab.json")]
    {
        let file = file.map(|name| dir.path().join(name));
        file.iter().for_each(|file| fs::write(file, "{}").unwrap());
        let error = PromptTokenizer::load(dir.path(), PromptStyle::Dev).err().unwrap();
        assert_eq!(error.code(), "CHECKPOINT_LAYOUT");
        let message = error.to_string();
        assert!(message.contains("tokenizer.json") && message.contains(expected), "{message}");
        file.iter().for_each(|file| fs::remove_file(file).unwrap());
    }
}
