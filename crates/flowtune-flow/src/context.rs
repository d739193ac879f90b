//! What a training step hands to the adapter.

use flowtune_engine::Tensor;

/// A batch of cached training data.
#[derive(Debug, Clone)]
pub struct Batch {
    /// Patchified, BN-normalised latents, float32 `[batch, 128, H/16, W/16]`.
    pub image_latents: Tensor,
    /// Text embeddings, float32 `[batch, tokens, dim]`.
    pub text_embeddings: Tensor,
    /// 0 leaves an element out of the loss; `[batch or 1, 128 or 1, H/16, W/16]`.
    pub loss_mask: Option<Tensor>,
    /// Guidance scale per sample, `[batch]`, instead of the adapter's.
    pub guidance: Option<Tensor>,
    /// Latents of the reference images that a sample is edited from, in order: per sample, each float32 `[1, 128, h, w]` or
    /// `[128, h, w]`, patchified and BN-normalised, without noise. Samples may have different numbers of them, and images
    /// any size. Empty when no sample has any.
    pub references: Vec<Vec<Tensor>>,
}

/// Everything about one step that an adapter may need. Tensors share storage with the step's, so clones are cheap.
#[derive(Debug, Clone)]
pub struct FlowMatchingContext {
    /// x_t, `[batch, 128, h, w]`.
    pub noisy_latents: Tensor,
    /// x₀, `[batch, 128, h, w]`.
    pub latents: Tensor,
    /// σ·1000, `[batch]`.
    pub timesteps: Tensor,
    /// σ, `[batch]`.
    pub sigma: Tensor,
    /// E.g. `t2i`.
    pub task_type: &'static str,
    /// `image`.
    pub data_type: &'static str,
    /// Probability of dropping a caption.
    pub cfg_dropout_prob: f64,
    /// Per sample, whether its caption is dropped; none is where the list is too short.
    pub drop_caption: Vec<bool>,
    /// What stands in for a dropped caption, `[tokens, dim]`; zeros when none.
    pub empty_prompt: Option<Tensor>,
    /// The data.
    pub batch: Batch,
}
