use std::path::Path;

use flowtune_flow::shift::FlowShift;
use flowtune_flow::timesteps::TimestepSampling;
use serde_json::{Value, json};

use super::*;

fn minimal() -> Value {
    json!({ "model": { "path": "model" }, "data": { "train": "images" }, "train": { "steps": 10 } })
}

fn resolve(recipe: &Value) -> Result<Recipe> {
    resolve_recipe(&recipe.to_string(), Path::new("/base/dir"))
}

/// The minimal recipe with `key` (dotted) set to `value`.
fn with(key: &str, value: Value) -> Value {
    let mut recipe = minimal();
    let mut place = &mut recipe;
    for part in key.split('.') {
        place = &mut place[part];
    }
    *place = value;
    recipe
}

fn message(recipe: &Value) -> String {
    let error = resolve(recipe).expect_err("must be refused");
    assert_eq!(error.code(), "RECIPE_INVALID", "{error}");
    error.to_string()
}

#[test]
fn defaults_are_those_of_the_docs() {
    let recipe = resolve(&minimal()).unwrap();
    assert_eq!(recipe.mode, Mode::Lora);
    assert_eq!((recipe.lora.rank, recipe.lora.alpha), (16, 16.0));
    let flow = &recipe.flow_matching;
    assert_eq!(flow.timestep_sampling, TimestepSampling::LogitNormal);
    assert_eq!(flow.flow_shift, FlowShift::Dynamic);
    assert_eq!((flow.guidance_scale, flow.caption_dropout, flow.max_loss), (1.0, 0.05, 100.0));
    assert_eq!(flow.caption_dropout_mode, CaptionDropoutMode::EmptyPrompt);
    assert_eq!((recipe.optimizer.lr, recipe.optimizer.weight_decay), (1e-4, 0.01));
    assert_eq!(recipe.validation.sigmas, [0.1, 0.3, 0.5, 0.7, 0.9]);
    assert!(recipe.train.activation_checkpointing);
}

#[test]
fn paths_start_at_the_base_folder() {
    let mut given = minimal();
    given["data"]["train"] = json!(["a", "../b", "/c/./d"]);
    given["output"] = json!({ "dir": "runs/x" });
    let recipe = resolve(&given).unwrap();
    assert_eq!(recipe.model.path, Path::new("/base/dir/model"));
    assert!(recipe.data.train.iter().map(|source| &source.path).eq(["/base/dir/a", "/base/b", "/c/d"].map(Path::new)));
    assert_eq!(recipe.output.dir, Path::new("/base/dir/runs/x"));
    assert_eq!(recipe.data.cache_dir, Path::new("/base/dir/runs/.cache"));
}

#[test]
fn resolving_twice_changes_nothing() {
    let mut given = with("flowMatching", json!({ "flowShift": 3, "captionDropoutMode": "zero" }));
    given["data"]["heldOut"] = json!("h");
    let once = resolve(&given).unwrap();
    let twice = resolve_recipe(&once.to_json().unwrap(), Path::new("/elsewhere")).unwrap();
    assert_eq!(once, twice);
    assert_eq!(once.flow_matching.flow_shift, FlowShift::Constant(3.0));
}

#[test]
fn a_hubs_id_stays_one_wherever_it_is_resolved() {
    let mut given = with("model.path", json!("owner/name@v1"));
    given["model"]["transformer"] = json!("owner/name/file.gguf@v1");
    let once = resolve(&given).unwrap();
    assert_eq!((once.model.path.as_path(), once.model.revision.as_deref()), (Path::new("owner/name"), Some("v1")));
    assert_eq!(resolve_recipe(&once.to_json().unwrap(), Path::new("/elsewhere")).unwrap(), once);
    given["model"]["revision"] = json!("v2");
    assert!(message(&given).contains("`model.revision` is said twice"));
    given["model"]["path"] = json!("owner/name");
    given["model"]["revision"] = json!("../x");
    assert!(message(&given).contains("`model.revision`: `../x` is no revision of owner/name"));
    given["model"]["path"] = json!("/model");
    assert!(message(&given).contains("`model.revision` is for a model of a hub"));
}

#[test]
fn unknown_keys_name_the_nearest_known_one() {
    let cases = [
        ("lora.rnak", "`lora.rnak` is not a recipe key; did you mean `lora.rank`?"),
        ("modell", "`modell` is not a recipe key; did you mean `model`?"),
        ("flowMatching.timestep_sampling", "did you mean `flowMatching.timestepSampling`?"),
        ("train.batchsize", "did you mean `train.batchSize`?"),
        ("lora.zzzzzz", "known here: rank, alpha, targets"),
    ];
    for (key, expected) in cases {
        let text = message(&with(key, json!(1)));
        assert!(text.contains(expected), "{key}: {text}");
    }
}

#[test]
fn missing_keys_are_named() {
    for (section, key, expected) in [
        ("model", "path", "`model.path` is required"),
        ("train", "steps", "`train.steps` is required"),
        ("data", "train", "`data.train` is required"),
    ] {
        let mut recipe = minimal();
        recipe[section].as_object_mut().unwrap().remove(key);
        assert_eq!(message(&recipe), expected);
        recipe.as_object_mut().unwrap().remove(section);
        assert_eq!(message(&recipe), format!("`{section}` is required"));
    }
}

#[test]
fn numbers_out_of_range_name_the_value_and_the_range() {
    let cases = [
        ("lora.rank", json!(-4), "`lora.rank` must be a whole number, at least 1, got -4"),
        ("lora.rank", json!(2.5), "`lora.rank` must be a whole number, at least 1, got 2.5"),
        ("lora.rank", json!("big"), "`lora.rank` must be a whole number, at least 1, got \"big\""),
        ("lora.alpha", json!(0), "`lora.alpha` must be above 0, got 0"),
        ("optimizer.beta1", json!(1), "`optimizer.beta1` must be at least 0 and below 1, got 1"),
        ("flowMatching.captionDropout", json!(1.5), "must be at least 0 and at most 1, got 1.5"),
        ("flowMatching.flowShift", json!("fast"), "`flowMatching.flowShift` must be"),
        ("validation.sigmas", json!([0.5, 0]), "`validation.sigmas` must be above 0 and at most 1, got 0"),
        ("data.resolution", json!(100), "multiple of 16, got 100; the nearest is 96"),
        ("data.resolution", json!([64, 40]), "multiple of 16, got 40; the nearest is 48"),
        ("data.resolution", json!(8), "at least 16 and at most 4096, got 8"),
        ("train.seed", json!(-1), "`train.seed` must be a whole number, at least 0"),
        ("train.steps", json!(0), "`train.steps` must be a whole number, at least 1, got 0"),
    ];
    for (key, value, expected) in cases {
        let text = message(&with(key, value));
        assert!(text.contains(expected), "{key}: {text}");
    }
}

#[test]
fn wrong_types_and_choices_are_named() {
    let cases = [
        ("mode", json!("lara"), "`mode` must be one of lora, full, got \"lara\" (did you mean \"lora\"?)"),
        ("flowMatching.lossWeighting", json!("linea"), "got \"linea\" (did you mean \"linear\"?)"),
        ("model.allowDistilled", json!("yes"), "`model.allowDistilled` must be a boolean, got string \"yes\""),
        ("model.dtype", json!("bf16"), "`model.dtype` must be one of float32, bfloat16, got \"bf16\""),
        ("model.quantization", json!("int4"), "`model.quantization` must be one of none, int8, nf4, got \"int4\""),
        ("model.path", json!(5), "`model.path` must be a path, got integer `5`"),
        ("data.train", json!(5), "`data.train` must be a path, or an object with a path"),
        (
            "data.train",
            json!([{"path": "a", "mask": "b"}]),
            "`data.train[0].mask` is not a recipe key; did you mean `data.train[0].masks`?",
        ),
        ("data.train", json!({"masks": "b"}), "`data.train.path` is required"),
        ("data.train", json!({"path": "a", "repeats": 0}), "`data.train.repeats` must be above 0, got 0"),
        ("data.resolution", json!([]), "`data.resolution` must have at least one value"),
        ("data.buckets", json!(1), "`data.buckets` must be a boolean"),
        ("validation.prompts", json!([{"promt": "x"}]), "did you mean `validation.prompts[0].prompt`?"),
        ("data.train", json!([]), "`data.train` must name at least one folder"),
        ("data.train", json!([""]), "`data.train` must be a path, got an empty string"),
        ("lora", json!(5), "`lora` must be an object with keys, got integer `5`"),
        ("flowMatching", json!(["mode", 0, -1]), "`flowMatching` must be an object with keys, got a list"),
        ("validation.prompts", json!("a cat"), "`validation.prompts` must be a list"),
    ];
    for (key, value, expected) in cases {
        let text = message(&with(key, value));
        assert!(text.contains(expected), "{key}: {text}");
    }
}

#[test]
fn keys_that_exclude_each_other_are_refused() {
    let mut both = minimal();
    both["data"]["heldOut"] = json!("h");
    both["data"]["heldOutCount"] = json!(2);
    assert!(message(&both).contains("`data.heldOutCount` and `data.heldOut`"));
    assert!(message(&with("flowMatching", json!({ "sigmaMin": 0.5, "sigmaMax": 0.4 }))).contains("sigmaMin"));
    assert!(message(&with("lrSchedule", json!({ "warmupSteps": 10 }))).contains("below `train.steps` (10)"));
}

#[test]
fn sources_and_prompts_are_texts_or_objects() {
    let mut given = minimal();
    given["data"]["train"] = json!([
        "plain",
        { "path": "whole", "masks": "masks", "references": ["first", "second"], "repeats": 2.5 },
        { "path": "plain too" }
    ]);
    given["data"]["resolution"] = json!([256, 512]);
    given["validation"] = json!({ "prompts": ["a cat", { "prompt": "a dog", "references": "dog.png" }] });
    let recipe = resolve(&given).unwrap();
    let [plain, whole, _] = &recipe.data.train[..] else { panic!("{:?}", recipe.data.train) };
    let base = plain.path.parent().unwrap();
    assert!(base.is_absolute() && plain.path == base.join("plain"));
    assert_eq!(whole.masks, Some(base.join("masks")));
    assert_eq!((&whole.references[..], whole.repeats), (&[base.join("first"), base.join("second")][..], Some(2.5)));
    assert_eq!(recipe.data.largest_resolution(), 512);
    assert_eq!(recipe.validation.prompts[1].references, [base.join("dog.png")]);
    let json: Value = serde_json::from_str(&recipe.to_json().unwrap()).unwrap();
    assert!(json["data"]["train"][0].is_string() && json["data"]["train"][2].is_string());
    assert_eq!(json["validation"]["prompts"][0], json!("a cat"));
    assert_eq!(resolve_recipe(&recipe.to_json().unwrap(), Path::new("/elsewhere")).unwrap(), recipe);
}

#[test]
fn repeats_and_weights_of_sources_fit_together() {
    let source = |extra: Value| json!({ "path": "a", extra[0].as_str().unwrap(): extra[1] });
    let mut both = source(json!(["repeats", 2]));
    both["weight"] = json!(1);
    let weighted = source(json!(["weight", 1]));
    for (key, value, told) in [
        ("data.train", json!(["a", weighted]), "every source, or to none"),
        ("data.train", json!([both]), "exclude each other"),
        ("data.heldOut", json!([weighted]), "neither `repeats` nor `weight`"),
    ] {
        let text = message(&with(key, value));
        assert!(text.contains(told), "{text}");
    }
    assert!(resolve(&with("data.train", json!([weighted, weighted]))).is_ok());
}

#[test]
fn every_number_has_a_rule_and_every_rule_a_key() {
    let mut full = minimal();
    full["data"]["heldOutCount"] = json!(1);
    full["data"]["textTokens"] = json!(1);
    full["validation"] = json!({ "everySteps": 1 });
    full["flowMatching"] = json!({ "flowShift": 1 });
    full["train"]["memoryBudget"] = json!(1);
    let mut numbers = Vec::new();
    // A source has one of these.
    for key in ["repeats", "weight"] {
        full["data"]["train"] = json!({ "path": "a", key: 1 });
        let resolved: Value = serde_json::from_str(&resolve(&full).unwrap().to_json().unwrap()).unwrap();
        numbers_of("", &resolved, &mut numbers);
    }
    let mut rules: Vec<_> = super::rules::keys().map(str::to_owned).collect();
    numbers.sort();
    numbers.dedup();
    rules.sort();
    assert_eq!(numbers, rules);
}

/// Keys of all numbers; those of a list's elements are the list's.
fn numbers_of(key: &str, value: &Value, keys: &mut Vec<String>) {
    match value {
        Value::Number(_) => keys.push(key.to_owned()),
        Value::Array(list) => list.iter().for_each(|value| numbers_of(key, value, keys)),
        Value::Object(object) => {
            let dot = if key.is_empty() { "" } else { "." };
            object.iter().for_each(|(name, value)| numbers_of(&format!("{key}{dot}{name}"), value, keys));
        }
        _ => {}
    }
}
