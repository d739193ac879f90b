// x + gate * y: x `[batch, tokens, dim]` and gate `[batch, dim]` in float32, so that the residual stream is not rounded by
// each block of the model; y in T. A block has one row of batch * tokens.
#include "shared.cuh"

template <typename T>
__device__ void forward(const float *x, const float *gate, const T *y, float *out, u64 rows, u64 tokens, u64 dim) {
  const u64 row = blockIdx.x;
  if (row >= rows) return;
  x += row * dim, y += row * dim, out += row * dim, gate += row / tokens * dim;
  for (u64 j = threadIdx.x; j < dim; j += blockDim.x) out[j] = x[j] + gate[j] * load(y[j]);
}

// Gradient of y: gate * g.
template <typename T>
__device__ void gated(const float *g, const float *gate, T *dy, u64 rows, u64 tokens, u64 dim) {
  const u64 row = blockIdx.x;
  if (row >= rows) return;
  g += row * dim, dy += row * dim, gate += row / tokens * dim;
  for (u64 j = threadIdx.x; j < dim; j += blockDim.x) dy[j] = stored<T>(gate[j] * g[j]);
}

// Gradient of the gate, first pass: sums of g * y over a chunk of tokens.
template <typename T>
__device__ void gate_gradient(const float *g, const T *y, float *partial, u64 tokens, u64 dim, u64 chunk) {
  const Tile tile(tokens, dim, chunk);
  if (tile.column >= dim) return;
  float sum = 0;
  for (u64 token = tile.first; token < tile.last; ++token) {
    const u64 at = (tile.sample * tokens + token) * dim + tile.column;
    sum += g[at] * load(y[at]);
  }
  partial[tile.out * dim + tile.column] = sum;
}

#define ENTRIES(T, suffix)                                                                                             \
  ENTRY(gated_residual_##suffix, const float *x, const float *gate, const T *y, float *out, u64 rows, u64 tokens,      \
        u64 dim) {                                                                                                     \
    forward(x, gate, y, out, rows, tokens, dim);                                                                       \
  }                                                                                                                    \
  ENTRY(gated_residual_dy_##suffix, const float *g, const float *gate, T *dy, u64 rows, u64 tokens, u64 dim) {         \
    gated(g, gate, dy, rows, tokens, dim);                                                                             \
  }                                                                                                                    \
  ENTRY(gated_residual_sums_##suffix, const float *g, const T *y, float *partial, u64 tokens, u64 dim, u64 chunk) {    \
    gate_gradient(g, y, partial, tokens, dim, chunk);                                                                  \
  }
ENTRIES(float, f32)
ENTRIES(bf16, bf16)
#undef ENTRIES
