//! Recipes of any shape: resolved, or refused with a sentence; never a panic.

use std::path::Path;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::{resolve_recipe, rules};

/// A value of any kind, and the numbers at which things break.
fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        prop::sample::select(vec![0i64, -1, 1, 15, 16, 17, i64::MAX]).prop_map(Value::from),
        prop::sample::select(vec![u64::MAX, 1 << 32, 1 << 63]).prop_map(Value::from),
        prop::sample::select(vec!["", ".", "..", "/", "a/../../b", "\0", "lora", "full", "bfloat16"])
            .prop_map(Value::from),
        ".{0,12}".prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 12, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::hash_map("[a-z]{1,6}|path|weight|prompt|repeats", inner, 0..4)
                .prop_map(|entries| Value::Object(entries.into_iter().collect())),
        ]
    })
}

fn minimal() -> Value {
    json!({ "model": { "path": "model" }, "data": { "train": "images" }, "train": { "steps": 10 } })
}

/// Every key that has a default or a rule, with those above it.
fn keys() -> Vec<String> {
    fn below(prefix: &str, value: &Value, keys: &mut Vec<String>) {
        for (name, value) in value.as_object().into_iter().flatten() {
            let key = if prefix.is_empty() { name.clone() } else { format!("{prefix}.{name}") };
            below(&key, value, keys);
            keys.push(key);
        }
    }
    let resolved = resolve_recipe(&minimal().to_string(), Path::new("/base")).unwrap().to_json().unwrap();
    let mut keys = rules::keys().map(str::to_owned).collect();
    below("", &serde_json::from_str(&resolved).unwrap(), &mut keys);
    keys
}

/// A whole recipe with some of its keys set to anything.
fn recipe() -> impl Strategy<Value = Value> {
    prop::collection::vec((prop::sample::select(keys()), value()), 1..5).prop_map(|entries| {
        let mut recipe = minimal();
        for (key, value) in entries {
            let mut place = &mut recipe;
            for part in key.split('.') {
                if !place.is_object() {
                    *place = json!({});
                }
                place = &mut place[part];
            }
            *place = value;
        }
        recipe
    })
}

fn check(text: &str) {
    match resolve_recipe(text, Path::new("/base/dir")) {
        Ok(resolved) => {
            let json = resolved.to_json().unwrap();
            let again = resolve_recipe(&json, Path::new("/other")).unwrap();
            assert_eq!(again.to_json().unwrap(), json, "a resolved recipe is resolved to itself");
        }
        Err(error) => assert_eq!(error.code(), "RECIPE_INVALID", "{error}"),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn keys_set_to_anything(recipe in recipe()) {
        check(&recipe.to_string());
    }

    #[test]
    fn any_text(text in "[ -~]{0,60}") {
        check(&text);
    }

    #[test]
    fn json_of_any_depth(depth in 1..4000usize) {
        check(&format!("{}{}", "[".repeat(depth), "]".repeat(depth)));
        check(&format!("{}1{}", "{\"model\":".repeat(depth), "}".repeat(depth)));
    }
}
