//! serde's errors in the user's words.

use serde_path_to_error::Error as PathError;

use crate::error::Error;

/// Turns a deserialisation error into one that names the key and what is allowed.
pub(super) fn explain(error: PathError<serde_json::Error>) -> Error {
    let path = error.path().to_string();
    let message = error.inner().to_string();
    let names = quoted(&message);
    let text = if message.starts_with("unknown field") {
        unknown_key(&path, &names)
    } else if message.starts_with("unknown variant") {
        unknown_choice(&path, &names)
    } else if message.starts_with("missing field") {
        let parent = if path == "." { String::new() } else { format!("{path}.") };
        format!("`{parent}{}` is required", names.first().map_or("?", String::as_str))
    } else if let Some(rest) = message.strip_prefix("must be ") {
        format!("`{path}` must be {rest}")
    } else {
        wrong_type(&path, &message)
    };
    Error::Recipe(text)
}

/// The names that serde puts in backticks.
fn quoted(message: &str) -> Vec<String> {
    message.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

/// `names`: the unknown key, then the known ones.
fn unknown_key(path: &str, names: &[String]) -> String {
    let Some((unknown, known)) = names.split_first() else { return format!("`{path}` is not a key") };
    // The path ends with the unknown key itself.
    let parent = path.strip_suffix(unknown.as_str()).unwrap_or(path).trim_end_matches('.');
    let full = |key: &str| if parent.is_empty() { key.to_owned() } else { format!("{parent}.{key}") };
    format!("`{}` is not a recipe key; {}", full(unknown), advice(unknown, known, full))
}

/// The known key that was probably meant, under its full name, or all that are known.
pub(super) fn advice(unknown: &str, known: &[String], full: impl Fn(&str) -> String) -> String {
    match nearest(unknown, known) {
        Some(key) => format!("did you mean `{}`?", full(key)),
        None => format!("known here: {}", known.join(", ")),
    }
}

/// `names`: the unknown value, then the known ones.
fn unknown_choice(path: &str, names: &[String]) -> String {
    let Some((unknown, known)) = names.split_first() else { return format!("`{path}` has an unknown value") };
    let advice = nearest(unknown, known).map(|name| format!(" (did you mean \"{name}\"?)")).unwrap_or_default();
    format!("`{path}` must be one of {}, got \"{unknown}\"{advice}", known.join(", "))
}

/// From "invalid type: string "x", expected a boolean".
fn wrong_type(path: &str, message: &str) -> String {
    let parts = message
        .strip_prefix("invalid type: ")
        .or_else(|| message.strip_prefix("invalid value: "))
        .and_then(|rest| rest.split_once(", expected "));
    match parts {
        Some((got, expected)) => format!("`{path}` must be {}, got {got}", plain(expected)),
        None => format!("`{path}`: {message}"),
    }
}

/// Rust's type names in words.
fn plain(expected: &str) -> &str {
    match expected {
        "path string" => "a path",
        "a sequence" => "a list",
        struct_name if struct_name.starts_with("struct ") => "an object with keys",
        other => other,
    }
}

/// The known name that `unknown` was probably meant to be: same letters but for a few, or the same but for case
/// and separators.
fn nearest<'a>(unknown: &str, known: &'a [String]) -> Option<&'a str> {
    const ALIKE: f64 = 0.7;
    let flat = |name: &str| name.chars().filter(|c| c.is_alphanumeric()).collect::<String>().to_lowercase();
    let unknown = flat(unknown);
    known
        .iter()
        .map(|name| {
            (strsim::damerau_levenshtein(&unknown, &flat(name)), strsim::jaro_winkler(&unknown, &flat(name)), name)
        })
        .filter(|(distance, alike, _)| *distance <= 2 || *alike >= ALIKE)
        .min_by(|a, b| a.0.cmp(&b.0).then(b.1.total_cmp(&a.1)))
        .map(|(_, _, name)| name.as_str())
}
