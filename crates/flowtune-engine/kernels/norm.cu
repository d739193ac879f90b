// LayerNorm without affine, then (1 + scale) * x + shift. x, scale and shift are float32; the result and its gradient are T.
// x `[batch, tokens, dim]`, scale and shift `[batch, dim]`; a block has one row of batch * tokens.
#include "shared.cuh"

struct Moments {
  float mean, rstd;
};

// Of a row: mean and 1 / sqrt(variance + eps).
__device__ inline Moments moments(const float *x, u64 dim, float eps) {
  float sum = 0, squares = 0;
  for (u64 j = threadIdx.x; j < dim; j += blockDim.x) sum += x[j];
  const float mean = block_sum(sum) / (float)dim;
  for (u64 j = threadIdx.x; j < dim; j += blockDim.x) squares += (x[j] - mean) * (x[j] - mean);
  return {mean, 1.0f / sqrtf(block_sum(squares) / (float)dim + eps)};
}

template <typename T>
__device__ void forward(const float *x, const float *scale, const float *shift, T *out, u64 rows, u64 tokens, u64 dim,
                        float eps) {
  const u64 row = blockIdx.x, sample = row / tokens * dim;
  if (row >= rows) return;
  x += row * dim, out += row * dim, scale += sample, shift += sample;
  const Moments m = moments(x, dim, eps);
  for (u64 j = threadIdx.x; j < dim; j += blockDim.x)
    out[j] = stored<T>((x[j] - m.mean) * m.rstd * (1 + scale[j]) + shift[j]);
}

// With n = (x - mean) * rstd and u = g * (1 + scale): dx = rstd * (u - mean(u) - n * mean(u * n)).
template <typename T>
__device__ void input_gradient(const float *x, const float *scale, const T *g, float *dx, u64 rows, u64 tokens, u64 dim,
                               float eps) {
  const u64 row = blockIdx.x;
  if (row >= rows) return;
  x += row * dim, g += row * dim, dx += row * dim, scale += row / tokens * dim;
  const Moments m = moments(x, dim, eps);
  float sum_u = 0, sum_ux = 0;
  for (u64 j = threadIdx.x; j < dim; j += blockDim.x) {
    const float u = load(g[j]) * (1 + scale[j]);
    sum_u += u;
    sum_ux += u * (x[j] - m.mean);
  }
  const float mean_u = block_sum(sum_u) / (float)dim;
  const float mean_un = block_sum(sum_ux) * m.rstd / (float)dim;
  for (u64 j = threadIdx.x; j < dim; j += blockDim.x) {
    const float u = load(g[j]) * (1 + scale[j]);
    dx[j] = m.rstd * (u - mean_u - (x[j] - m.mean) * m.rstd * mean_un);
  }
}

// Gradients of scale and shift, first pass: sums of g * n and of g over a chunk of tokens. moments is `[batch * tokens]`.
template <typename T>
__device__ void modulation_gradient(const float *x, const T *g, const Moments *of_row, float *dscale, float *dshift,
                                    u64 tokens, u64 dim, u64 chunk) {
  const Tile tile(tokens, dim, chunk);
  if (tile.column >= dim) return;
  float sum_gn = 0, sum_g = 0;
  for (u64 token = tile.first; token < tile.last; ++token) {
    const u64 row = tile.sample * tokens + token, at = row * dim + tile.column;
    const float value = load(g[at]);
    sum_gn += value * (x[at] - of_row[row].mean) * of_row[row].rstd;
    sum_g += value;
  }
  dscale[tile.out * dim + tile.column] = sum_gn;
  dshift[tile.out * dim + tile.column] = sum_g;
}

ENTRY(layer_norm_moments_f32, const float *x, float *out, u64 rows, u64 dim, float eps) {
  const u64 row = blockIdx.x;
  if (row >= rows) return;
  const Moments m = moments(x + row * dim, dim, eps);
  if (threadIdx.x != 0) return;
  out[2 * row] = m.mean;
  out[2 * row + 1] = m.rstd;
}

#define ENTRIES(T, suffix)                                                                                             \
  ENTRY(layer_norm_modulate_##suffix, const float *x, const float *scale, const float *shift, T *out, u64 rows,        \
        u64 tokens, u64 dim, float eps) {                                                                              \
    forward(x, scale, shift, out, rows, tokens, dim, eps);                                                             \
  }                                                                                                                    \
  ENTRY(layer_norm_modulate_dx_##suffix, const float *x, const float *scale, const T *g, float *dx, u64 rows,          \
        u64 tokens, u64 dim, float eps) {                                                                              \
    input_gradient(x, scale, g, dx, rows, tokens, dim, eps);                                                           \
  }                                                                                                                    \
  ENTRY(layer_norm_modulate_sums_##suffix, const float *x, const T *g, const float *moments, float *dscale,            \
        float *dshift, u64 tokens, u64 dim, u64 chunk) {                                                               \
    modulation_gradient(x, g, reinterpret_cast<const Moments *>(moments), dscale, dshift, tokens, dim, chunk);         \
  }
ENTRIES(float, f32)
ENTRIES(bf16, bf16)
#undef ENTRIES
