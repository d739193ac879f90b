// Floating-point operations of one training step, counted from the geometry: products of linear layers, their adapters
// and attention.

/** Of the adapters that the benches train. */
const RANK = 16

/**
 * A frozen layer costs a forward product and one for the gradient of its input; a trained one also one for its weight.
 * Before the first block stands nothing that a LoRA trains: its queries, keys and values pass no gradient on. Behind the last
 * block, if it is a single one, text is of no use: only its keys and values are needed there. What is kept is not computed
 * again; a checkpointed block runs its forward twice. Embeddings of time and everything between the products
 * are left out: they are a percent.
 */
export function flopsOfStep({ transformer, latents, textTokens }, mode, checkpointed) {
  const { num_layers, num_single_layers, attention_head_dim, num_attention_heads, joint_attention_dim } = transformer
  const dim = attention_head_dim * num_attention_heads
  const image = latents[0] * latents[1]
  const tokens = image + textTokens
  const mlp = 3 * dim
  // Multiply-adds are two operations. Each stream of a double block: q, k, v, out and a gated feed-forward.
  const block = 2 * tokens * (4 * dim * dim + 3 * dim * mlp)
  const blocks = num_layers + num_single_layers
  // Of the last block's text: queries, feed-forward and what follows both.
  const useless = num_single_layers > 0 ? textTokens : 0
  const linear = blocks * block - 2 * useless * (2 * dim * dim + 3 * dim * mlp)
  const scores = 2 * (blocks * tokens - useless) * tokens * dim
  const attention = 2 * scores
  const ends = 2 * image * 128 * dim + 2 * textTokens * joint_attention_dim * dim + 2 * image * dim * 128
  // Two thin products for each layer, as wide as what goes in and comes out. A single block's layers are fewer.
  const widths = num_layers * (8 * dim + (dim + 2 * mlp) + (mlp + dim)) + num_single_layers * (6 * dim + 3 * mlp)
  const adapters = mode === 'lora' ? 2 * RANK * (tokens * widths - useless * (3 * dim + 3 * mlp)) : 0
  const forward = linear + adapters + attention + ends
  const unasked = mode === 'lora' ? 2 * tokens * 3 * dim * dim : 0
  // Gradients of the inputs of linear layers; of scores again, probabilities, q, k and v.
  const backward = linear - unasked + 2 * adapters + 5 * scores + 2 * image * dim * 128
  const weights = mode === 'full' ? linear + ends : 0
  return forward + backward + weights + (checkpointed ? linear + adapters + attention : 0)
}
