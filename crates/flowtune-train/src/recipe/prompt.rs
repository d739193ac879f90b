//! What a run's sample images show.

use std::path::PathBuf;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::forms::{TextOrObject, one_or_many, text_or_object};

/// A prompt of a sample image. Without more to say, its text alone.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(remote = "Self", rename_all = "camelCase", deny_unknown_fields)]
pub struct PromptRecipe {
    /// The text; `[trigger]` is replaced as in captions.
    pub prompt: String,
    /// Images that the model sees beside it, in order.
    #[serde(default, deserialize_with = "one_or_many", skip_serializing_if = "Vec::is_empty")]
    pub references: Vec<PathBuf>,
}

impl TextOrObject for PromptRecipe {
    const EXPECTING: &'static str = "a text, or an object with a prompt";

    fn of_text(prompt: String) -> Self {
        Self { prompt, ..Self::default() }
    }

    fn of_object<'de, D: Deserializer<'de>>(object: D) -> Result<Self, D::Error> {
        Self::deserialize(object)
    }
}

impl<'de> Deserialize<'de> for PromptRecipe {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        text_or_object(deserializer)
    }
}

impl Serialize for PromptRecipe {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.references.is_empty() {
            true => self.prompt.serialize(serializer),
            false => Self::serialize(self, serializer),
        }
    }
}
