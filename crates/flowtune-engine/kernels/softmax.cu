// What chunked attention does between its matrix products. Scores are `[groups, rows, keys]`: some rows (queries) of each
// group (a head of a sample); S is what a product left, T what the next takes. A block has one row. Where S is T, a
// result may be written over its input: each thread writes only what it alone has read.
#include "shared.cuh"

// The log-sum-exps or deltas of the rows of a chunk: those of a group follow each other, groups are `stride` apart.
struct PerRow {
  u64 rows, stride;
  __device__ u64 at(u64 row) const { return row / rows * stride + row % rows; }
};

// p = softmax(scores), and the log-sum-exp of each row.
template <typename S, typename T>
__device__ void softmax(const S *scores, T *p, float *lse, PerRow of, u64 rows, u64 keys) {
  const u64 row = blockIdx.x;
  if (row >= rows) return;
  scores += row * keys, p += row * keys;
  float most = load(scores[0]), sum = 0;
  for (u64 j = threadIdx.x; j < keys; j += blockDim.x) most = Max::join(most, load(scores[j]));
  most = block_max(most);
  for (u64 j = threadIdx.x; j < keys; j += blockDim.x) sum += expf(load(scores[j]) - most);
  sum = block_sum(sum);
  const float inverse = 1.0f / sum;
  for (u64 j = threadIdx.x; j < keys; j += blockDim.x) p[j] = stored<T>(expf(load(scores[j]) - most) * inverse);
  if (threadIdx.x == 0) lse[of.at(row)] = most + logf(sum);
}

// p = exp(scale * scores - lse): the same probabilities again, for the backward.
template <typename S, typename T>
__device__ void probabilities(const S *scores, const float *lse, T *p, PerRow of, u64 rows, u64 keys, float scale) {
  const u64 row = blockIdx.x;
  if (row >= rows) return;
  scores += row * keys, p += row * keys;
  const float of_row = lse[of.at(row)];
  for (u64 j = threadIdx.x; j < keys; j += blockDim.x) p[j] = stored<T>(expf(scale * load(scores[j]) - of_row));
}

// ds = p * (dp - delta) * scale, dp being the gradient of p.
template <typename S, typename T>
__device__ void score_gradient(const T *p, const S *dp, const float *delta, T *ds, PerRow of, u64 rows, u64 keys,
                               float scale) {
  const u64 row = blockIdx.x;
  if (row >= rows) return;
  p += row * keys, dp += row * keys, ds += row * keys;
  const float of_row = delta[of.at(row)];
  for (u64 j = threadIdx.x; j < keys; j += blockDim.x) ds[j] = stored<T>(load(p[j]) * (load(dp[j]) - of_row) * scale);
}

// delta `[batch, heads, tokens]` = sum of o * g over each head; o and g `[batch, tokens, heads, dim]`. A warp has a head.
template <typename T>
__device__ void row_products(const T *o, const T *g, float *delta, u64 rows, u64 tokens, u64 heads, u64 dim) {
  const u64 row = warp_row();
  if (row >= rows) return;
  o += row * dim, g += row * dim;
  float sum = 0;
  for (u64 j = lane(); j < dim; j += WARP) sum += load(o[j]) * load(g[j]);
  sum = warp_sum(sum);
  const u64 head = row % heads, token = row / heads % tokens, sample = row / heads / tokens;
  if (lane() == 0) delta[(sample * heads + head) * tokens + token] = sum;
}

#define ENTRIES(S, T, suffix)                                                                                          \
  ENTRY(softmax_##suffix, const S *scores, T *p, float *lse, u64 rows, u64 of, u64 stride, u64 keys) {                 \
    softmax(scores, p, lse, PerRow{of, stride}, rows, keys);                                                           \
  }                                                                                                                    \
  ENTRY(probabilities_##suffix, const S *scores, const float *lse, T *p, u64 rows, u64 of, u64 stride, u64 keys,       \
        float scale) {                                                                                                 \
    probabilities(scores, lse, p, PerRow{of, stride}, rows, keys, scale);                                              \
  }                                                                                                                    \
  ENTRY(score_gradient_##suffix, const T *p, const S *dp, const float *delta, T *ds, u64 rows, u64 of, u64 stride,     \
        u64 keys, float scale) {                                                                                       \
    score_gradient(p, dp, delta, ds, PerRow{of, stride}, rows, keys, scale);                                           \
  }
ENTRIES(float, float, f32_f32)
ENTRIES(float, bf16, f32_bf16)
ENTRIES(bf16, bf16, bf16_bf16)
#undef ENTRIES

#define ENTRIES(T, suffix)                                                                                             \
  ENTRY(row_products_##suffix, const T *o, const T *g, float *delta, u64 rows, u64 tokens, u64 heads, u64 dim) {       \
    row_products(o, g, delta, rows, tokens, heads, dim);                                                               \
  }
ENTRIES(float, f32)
ENTRIES(bf16, bf16)
#undef ENTRIES
