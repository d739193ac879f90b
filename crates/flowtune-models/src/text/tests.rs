use std::fs;
use std::path::Path;

use flowtune_engine::Tensor;
use serde_json::{Value, json};

use super::{PromptStyle, PromptTokenizer, TextConfig, TextEncoder};
use crate::folder::{ModelFolder, read_json};
use crate::testing::{Case, FORWARD, assert_close, fixtures};
use crate::weights::{Weights, read_safetensors};

fn config(case: &Case) -> TextConfig {
    let mut config = case.info["config"].clone();
    config["model_type"] = case.info["family"].clone();
    TextConfig::from_json(&config, Path::new("case.json")).unwrap()
}

fn check(name: &str) {
    let case = Case::read(name);
    let layers: Vec<usize> = serde_json::from_value(case.info["layers"].clone()).unwrap();
    let encoder = TextEncoder::load(config(&case), &case.weights, &layers).unwrap();
    let (ids, mask) = (case.tensor("in.input_ids"), case.tensor("in.attention_mask"));
    let got = encoder.text_embeddings(ids, mask).unwrap();
    assert_close(&got, case.tensor("expect.text_embeddings"), FORWARD);
    assert_eq!(got.last_dim(), encoder.embedding_dim());
}

#[test]
fn qwen3_as_transformers() {
    check("text-qwen3");
}

#[test]
fn mistral_as_transformers() {
    check("text-mistral");
}

#[test]
fn mistral_padded_on_the_left_as_transformers() {
    check("text-mistral-left");
}

#[test]
fn other_prefixes_are_found_and_layers_past_the_last_tap_not_needed() {
    let case = Case::read("text-mistral");
    for prefix in ["language_model.model.", "model.language_model.", ""] {
        let kept = |name: &str| !name.contains("layers.2.");
        let renamed = case.weights.names().into_iter().filter(|n| kept(n)).filter_map(|name| {
            let tensor = case.weights.get(&name, &case.weights.shape(&name)?).ok()?;
            Some((name.replacen("model.", prefix, 1), tensor))
        });
        let weights = Weights::from_tensors(renamed.collect());
        let encoder = TextEncoder::load(config(&case), &weights, &[0, 2]).unwrap();
        let ids = Tensor::from_vec(vec![3i64, 4, 5], &[1, 3]).unwrap();
        let mask = Tensor::full(1i64, &[1, 3]);
        assert_eq!(encoder.text_embeddings(&ids, &mask).unwrap().shape(), [1, 3, 64]);
        let error = TextEncoder::load(config(&case), &weights, &[3]).err().unwrap();
        assert_eq!(error.code(), "WEIGHTS_MISSING");
        assert!(error.to_string().contains("layers.2."), "{error}");
    }
    let error = TextEncoder::load(config(&case), &case.weights, &[9]).err().unwrap();
    assert!(error.to_string().contains("more layers"), "{error}");
}

#[test]
fn a_whole_folder_makes_the_ids_texts_and_embeddings_of_diffusers() {
    let folder = ModelFolder::open(fixtures().join("pipeline/pipeline")).unwrap();
    let (tokenizer, encoder) = (folder.tokenizer().unwrap(), folder.text_encoder().unwrap());
    let info: Value = read_json(&fixtures().join("pipeline/expect.json")).unwrap();
    let expected = read_safetensors(fixtures().join("pipeline/expect.safetensors")).unwrap();
    for (i, run) in info["runs"].as_array().unwrap().iter().enumerate() {
        let tokens = tokenizer.encode(&[run["prompt"].as_str().unwrap()], None).unwrap();
        assert_eq!(tokens.texts, [run["text"].as_str().unwrap()]);
        assert_eq!(tokens.truncated, [false]);
        same_integers(&tokens.input_ids, &expected[&format!("input_ids.{i}")]);
        same_integers(&tokens.attention_mask, &expected[&format!("attention_mask.{i}")]);
        let embeddings = encoder.text_embeddings(&tokens.input_ids, &tokens.attention_mask).unwrap();
        assert_close(&embeddings, &expected[&format!("text_embeddings.{i}")], FORWARD);
        let empty = tokenizer.encode(&[""], None).unwrap();
        let embeddings = encoder.text_embeddings(&empty.input_ids, &empty.attention_mask).unwrap();
        assert_close(&embeddings, &expected[&format!("negative_text_embeddings.{i}")], FORWARD);
    }
}

fn same_integers(a: &Tensor, b: &Tensor) {
    assert_eq!((a.shape(), a.as_slice::<i64>().unwrap()), (b.shape(), b.as_slice::<i64>().unwrap()));
}

/// The fixture's tokenizer with other entries in its configuration and, if given, another template.
fn tokenizer(changes: Value, template: Option<&str>, style: PromptStyle) -> (PromptTokenizer, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let source = fixtures().join("pipeline/pipeline/tokenizer");
    fs::copy(source.join("tokenizer.json"), dir.path().join("tokenizer.json")).unwrap();
    let mut config: Value = read_json(&source.join("tokenizer_config.json")).unwrap();
    config["chat_template"] = fs::read_to_string(source.join("chat_template.jinja")).unwrap().into();
    for (key, value) in changes.as_object().unwrap() {
        config[key] = value.clone();
    }
    fs::write(dir.path().join("tokenizer_config.json"), config.to_string()).unwrap();
    if let Some(template) = template {
        fs::write(dir.path().join("chat_template.jinja"), template).unwrap();
    }
    (PromptTokenizer::load(dir.path(), style).unwrap(), dir)
}

#[test]
fn long_prompts_are_cut_and_reported_and_padding_follows_its_side() {
    let (right, _dir) = tokenizer(json!({}), None, PromptStyle::Klein);
    let (left, _dir) = tokenizer(json!({"padding_side": "left", "model_max_length": 40}), None, PromptStyle::Klein);
    assert_eq!((right.max_tokens(), left.max_tokens()), (512, 40));
    let prompts = ["a red heart", "cat"];
    let (r, l) = (right.encode(&prompts, Some(64)).unwrap(), left.encode(&prompts, Some(64)).unwrap());
    assert_eq!(r.input_ids.shape(), [2, 64]);
    let rows = |t: &Tensor| -> Vec<Vec<i64>> { t.as_slice::<i64>().unwrap().chunks(64).map(<[i64]>::to_vec).collect() };
    for (mask_r, mask_l) in rows(&r.attention_mask).iter().zip(rows(&l.attention_mask)) {
        assert!(mask_r.is_sorted_by(|a, b| a >= b) && mask_l.is_sorted());
        assert_eq!(mask_r.iter().sum::<i64>(), mask_l.iter().sum::<i64>());
    }
    let whole = &rows(&r.input_ids)[0];
    let cut = right.encode(&prompts[..1], Some(5)).unwrap();
    assert_eq!((cut.input_ids.as_slice::<i64>().unwrap(), &cut.truncated[..]), (&whole[..5], &[true][..]));
    assert_eq!(left.encode(&prompts[..1], None).unwrap().input_ids.shape(), [1, 40]);
}

#[test]
fn python_methods_and_special_tokens_work_in_templates() {
    // What Qwen3's own template does, in little: namespaces, slices from behind, string methods, items().
    let template = "{%- set ns = namespace(last=-1) %}\n{%- for message in messages[::-1] %}\n    \
        {%- if message.role == 'user' and message.content is string and not message.content.startswith('<x>') %}\n        \
        {%- set ns.last = loop.index0 %}\n    {%- endif %}\n{%- endfor %}\n\
        {%- for message in messages %}\n{%- for key, value in message.items() %}{{ key }}={{ value.strip() }};{% endfor %}\n\
        {%- endfor %}{{ ns.last }}{{ eos_token }}{% if tools %}tools{% endif %}\n";
    let (tokenizer, _dir) = tokenizer(json!({}), Some(template), PromptStyle::Klein);
    let text = &tokenizer.encode(&[" cat "], None).unwrap().texts[0];
    assert!(text == "role=user;content=cat;0<|im_end|>" || text == "content=cat;role=user;0<|im_end|>", "{text}");
}

#[test]
fn dev_gives_its_system_message_and_removes_img() {
    let template = "{{ bos_token }}{% set today = strftime_now('%Y') %}{% for m in messages %}[{{ m.role }}]\
        {% for block in m['content'] %}{% if block['type'] == 'text' %}{{ block['text'] }}{% endif %}{% endfor %}\
        {% endfor %}{% if add_generation_prompt %}assistant{% endif %}";
    let changes = json!({"bos_token": {"content": "<|im_start|>"}});
    let (tokenizer, _dir) = tokenizer(changes, Some(template), PromptStyle::Dev);
    let tokens = tokenizer.encode(&["a [IMG]cat"], None).unwrap();
    let text = &tokens.texts[0];
    assert!(
        text.starts_with("<|im_start|>[system]You are an AI that reasons about image descriptions. You give"),
        "{text}"
    );
    assert!(text.ends_with("object\nattribution and actions without speculation.[user]a cat"), "{text}");
}

#[test]
fn what_a_template_or_a_folder_lacks_is_named() {
    let (refusing, _dir) = tokenizer(json!({}), Some("{{ raise_exception('no roles') }}"), PromptStyle::Klein);
    let error = refusing.encode(&["cat"], None).unwrap_err();
    assert_eq!(error.code(), "DATA_UNREADABLE");
    assert!(error.to_string().contains("no roles") && error.to_string().contains("cat"), "{error}");
    let refused = |change: fn(&Path), culprit: &str| {
        let (_, dir) = tokenizer(json!({}), None, PromptStyle::Klein);
        change(dir.path());
        let error = PromptTokenizer::load(dir.path(), PromptStyle::Klein).err().unwrap();
        assert_eq!(error.code(), "CHECKPOINT_LAYOUT");
        assert!(error.to_string().contains(culprit), "{error}");
    };
    refused(|dir| fs::write(dir.join("tokenizer_config.json"), r#"{"chat_template": "x"}"#).unwrap(), "pad_token");
    refused(
        |dir| fs::write(dir.join("tokenizer_config.json"), r#"{"pad_token": "<|endoftext|>"}"#).unwrap(),
        "chat_template.jinja",
    );
    refused(|dir| fs::write(dir.join("chat_template.jinja"), "{% if %}").unwrap(), "chat_template.jinja");
    refused(|dir| fs::write(dir.join("tokenizer.json"), "{}").unwrap(), "tokenizer.json");
    refused(|dir| fs::remove_file(dir.join("tokenizer.json")).unwrap(), "tokenizer.json");
}

#[test]
fn folders_that_are_not_flux2_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let refused = |culprit: &str| {
        let error = ModelFolder::open(dir.path()).unwrap_err();
        assert_eq!(error.code(), "CHECKPOINT_LAYOUT");
        assert!(error.to_string().contains(culprit), "{error}");
    };
    refused("model_index.json");
    fs::write(dir.path().join("model_index.json"), r#"{"_class_name": "FluxPipeline"}"#).unwrap();
    refused("FluxPipeline");
    fs::write(dir.path().join("model_index.json"), r#"{"_class_name": "Flux2KleinPipeline", "is_distilled": true}"#)
        .unwrap();
    let folder = ModelFolder::open(dir.path()).unwrap();
    assert!(folder.is_distilled());
    assert!(folder.vae().err().unwrap().to_string().contains("vae"));
}

#[test]
fn the_fixture_names_its_scheduler() {
    let folder = ModelFolder::open(fixtures().join("pipeline/pipeline")).unwrap();
    assert_eq!((folder.class_name(), folder.is_distilled()), ("Flux2KleinPipeline", false));
    let scheduler = folder.scheduler_config().unwrap();
    assert_eq!((scheduler.shift, scheduler.use_dynamic_shifting), (3.0, true));
}
