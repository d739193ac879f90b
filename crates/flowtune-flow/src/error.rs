//! What can go wrong in a flow-matching step.

/// Result of a call into this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A flow-matching error; [`Error::code`] is stable and reaches JavaScript.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The loss cannot be trained on; no weight was touched.
    #[error(
        "the loss is {loss} (limit {limit}): lower the learning rate, check the latents for NaN, \
         or raise flowMatching.maxLoss"
    )]
    LossDiverged {
        /// The loss.
        loss: f64,
        /// Largest loss that is accepted.
        limit: f64,
    },
    /// An option contradicts another, or a value is out of range.
    #[error("{0}")]
    Invalid(String),
    /// An engine operation failed.
    #[error(transparent)]
    Engine(#[from] flowtune_engine::Error),
    /// The model failed.
    #[error(transparent)]
    Model(#[from] flowtune_models::Error),
}

impl Error {
    /// Stable code of this error.
    pub fn code(&self) -> &'static str {
        match self {
            Self::LossDiverged { .. } => "LOSS_DIVERGED",
            Self::Invalid(_) => "RECIPE_INVALID",
            Self::Engine(e) => e.code(),
            Self::Model(e) => e.code(),
        }
    }
}
