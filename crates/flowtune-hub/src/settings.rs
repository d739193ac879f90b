//! Which hub, which cache, which token: the environment variables of `huggingface_hub`.

use std::env;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use crate::error::{Error, Result};

/// Where the hub is unless `HF_ENDPOINT` names another.
const ENDPOINT: &str = "https://huggingface.co";

/// How a hub is used.
#[derive(Clone)]
pub struct Settings {
    /// Base of its URLs, without a slash at the end.
    pub endpoint: String,
    /// Folder of the cache, with one folder for each repository.
    pub cache: PathBuf,
    /// Says who asks; sent to the endpoint and nowhere else.
    pub token: Option<String>,
    /// Whether only the cache may be used.
    pub offline: bool,
    /// Longest silence of a connection.
    pub timeout: Duration,
    /// Attempts in a row that may fail without a byte coming through.
    pub attempts: u32,
    /// Pause after the first failure; each further one is twice as long.
    pub first_pause: Duration,
}

impl Settings {
    /// `HF_ENDPOINT`; `HF_HUB_CACHE`, `HF_HOME` (with `XDG_CACHE_HOME`); `HF_TOKEN`, `HUGGING_FACE_HUB_TOKEN`, the file
    /// `HF_TOKEN_PATH` or `token` in `HF_HOME`; `HF_HUB_OFFLINE`; `HF_HUB_DOWNLOAD_TIMEOUT` in seconds.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` for a variable that cannot be used.
    pub fn from_env() -> Result<Self> {
        Self::from_variables(&|name| env::var(name).ok(), env::home_dir())
    }

    fn from_variables(variable: &dyn Fn(&str) -> Option<String>, home: Option<PathBuf>) -> Result<Self> {
        let given = |name: &str| variable(name).map(|value| value.trim().to_owned()).filter(|value| !value.is_empty());
        let folder = |name: &str| given(name).map(|value| expand_home(&value, home.as_ref()));
        let user_cache = || folder("XDG_CACHE_HOME").or_else(|| Some(home.as_ref()?.join(".cache")));
        let hf_home = folder("HF_HOME").or_else(|| Some(user_cache()?.join("huggingface")));
        let cache = folder("HF_HUB_CACHE")
            .or_else(|| folder("HUGGINGFACE_HUB_CACHE"))
            .or_else(|| Some(hf_home.as_ref()?.join("hub")))
            .ok_or_else(|| {
                Error::InvalidArgument("there is no home folder: set HF_HOME to a folder for models".into())
            })?;
        let token_file = folder("HF_TOKEN_PATH").or_else(|| Some(hf_home?.join("token")));
        let token = given("HF_TOKEN")
            .or_else(|| given("HUGGING_FACE_HUB_TOKEN"))
            .or_else(|| fs::read_to_string(token_file?).ok())
            .map(|token| token.split_whitespace().collect())
            .filter(|token: &String| !token.is_empty());
        Ok(Self {
            endpoint: endpoint(given("HF_ENDPOINT"))?,
            cache,
            token,
            offline: ["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"]
                .iter()
                .filter_map(|name| given(name))
                .any(|v| is_true(&v)),
            timeout: timeout(given("HF_HUB_DOWNLOAD_TIMEOUT"))?,
            attempts: 5,
            first_pause: Duration::from_millis(500),
        })
    }
}

fn endpoint(given: Option<String>) -> Result<String> {
    let endpoint = given.unwrap_or_else(|| ENDPOINT.to_owned()).trim_end_matches('/').to_owned();
    match endpoint.starts_with("https://") || endpoint.starts_with("http://") {
        true => Ok(endpoint),
        false => {
            Err(Error::InvalidArgument(format!("HF_ENDPOINT must begin with https:// or http://, got `{endpoint}`")))
        }
    }
}

fn timeout(given: Option<String>) -> Result<Duration> {
    const DEFAULT: u64 = 10;
    let Some(text) = given else { return Ok(Duration::from_secs(DEFAULT)) };
    match text.parse() {
        Ok(seconds) if seconds > 0 => Ok(Duration::from_secs(seconds)),
        _ => {
            Err(Error::InvalidArgument(format!("HF_HUB_DOWNLOAD_TIMEOUT must be whole seconds above 0, got `{text}`")))
        }
    }
}

fn is_true(value: &str) -> bool {
    ["1", "on", "yes", "true"].iter().any(|yes| value.eq_ignore_ascii_case(yes))
}

fn expand_home(value: &str, home: Option<&PathBuf>) -> PathBuf {
    match (value.strip_prefix("~/"), home) {
        (Some(rest), Some(home)) => home.join(rest),
        _ => PathBuf::from(value),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(variables: &[(&str, &str)]) -> Result<Settings> {
        let variable = |name: &str| variables.iter().find(|(n, _)| *n == name).map(|(_, v)| (*v).to_owned());
        Settings::from_variables(&variable, Some(PathBuf::from("/home/u")))
    }

    #[test]
    fn folders_come_from_the_nearest_variable() {
        let cache = |variables: &[(&str, &str)]| settings(variables).unwrap().cache;
        assert_eq!(cache(&[]), PathBuf::from("/home/u/.cache/huggingface/hub"));
        assert_eq!(cache(&[("XDG_CACHE_HOME", "/x")]), PathBuf::from("/x/huggingface/hub"));
        assert_eq!(cache(&[("HF_HOME", "~/hf"), ("XDG_CACHE_HOME", "/x")]), PathBuf::from("/home/u/hf/hub"));
        assert_eq!(cache(&[("HF_HUB_CACHE", "/c"), ("HF_HOME", "/h")]), PathBuf::from("/c"));
    }

    #[test]
    fn the_token_comes_from_a_variable_or_a_file() {
        let token = |variables: &[(&str, &str)]| settings(variables).unwrap().token;
        let folder = tempfile::tempdir().unwrap();
        let home = folder.path().to_str().unwrap();
        fs::write(folder.path().join("token"), "hf_file\n").unwrap();
        let other = folder.path().join("other");
        fs::write(&other, "hf_other").unwrap();
        assert_eq!(token(&[("HF_HOME", home)]).as_deref(), Some("hf_file"));
        assert_eq!(
            token(&[("HF_HOME", home), ("HF_TOKEN_PATH", other.to_str().unwrap())]).as_deref(),
            Some("hf_other")
        );
        assert_eq!(token(&[("HF_HOME", home), ("HUGGING_FACE_HUB_TOKEN", "hf_b")]).as_deref(), Some("hf_b"));
        let both = [("HF_HOME", home), ("HUGGING_FACE_HUB_TOKEN", "hf_b"), ("HF_TOKEN", " hf_a ")];
        assert_eq!(token(&both).as_deref(), Some("hf_a"));
        assert_eq!(token(&[("HF_HOME", "/absent"), ("HF_TOKEN", "")]), None);
    }

    #[test]
    fn the_endpoint_and_the_switches() {
        assert_eq!(settings(&[]).unwrap().endpoint, ENDPOINT);
        assert_eq!(settings(&[("HF_ENDPOINT", "http://127.0.0.1:1/")]).unwrap().endpoint, "http://127.0.0.1:1");
        assert!(settings(&[("HF_HUB_OFFLINE", "yes")]).unwrap().offline);
        assert!(settings(&[("TRANSFORMERS_OFFLINE", "1")]).unwrap().offline);
        assert!(!settings(&[("HF_HUB_OFFLINE", "0")]).unwrap().offline);
        assert_eq!(settings(&[("HF_HUB_DOWNLOAD_TIMEOUT", "3")]).unwrap().timeout, Duration::from_secs(3));
        for wrong in [("HF_ENDPOINT", "hub.example"), ("HF_HUB_DOWNLOAD_TIMEOUT", "soon")] {
            assert_eq!(settings(&[wrong]).map(|_| ()).unwrap_err().code(), "INVALID_ARGUMENT");
        }
    }
}
