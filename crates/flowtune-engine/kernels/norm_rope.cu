// RMSNorm of each head, then the rotary embedding: x `[batch, tokens, heads, dim]`, weight `[dim]`, cos and sin `[1 or batch,
// tokens, dim / 2]`, all three float32. Pair i of a head is (x[2i], x[2i + 1]). A warp has one head of one token.
#include "shared.cuh"

// Where the angles of a head are.
struct Angles {
  const float *cos, *sin;
  u64 tokens, heads, half;
  u32 shared; // whether all samples have the same

  // Start of the angles of row `row` of batch * tokens * heads.
  __device__ u64 at(u64 row) const {
    const u64 token = row / heads;
    return (shared ? token % tokens : token) * half;
  }
};

struct Pair {
  float a, b;
};

template <typename T> __device__ Pair pair_of(const T *x, u64 i) { return {load(x[2 * i]), load(x[2 * i + 1])}; }

// Pair i of g, rotated by the negative angle.
template <typename T> __device__ Pair rotated_back(const T *g, const Angles &angles, u64 at, u64 i) {
  const Pair p = pair_of(g, i);
  const float cos = angles.cos[at + i], sin = angles.sin[at + i];
  return {p.a * cos + p.b * sin, p.b * cos - p.a * sin};
}

// 1 / sqrt(mean(x^2) + eps) of a head, by a warp.
template <typename T> __device__ float inverse_rms(const T *x, u64 dim, float eps) {
  float squares = 0;
  for (u64 j = lane(); j < dim; j += WARP) squares += load(x[j]) * load(x[j]);
  return 1.0f / sqrtf(warp_sum(squares) / (float)dim + eps);
}

template <typename T>
__device__ void forward(const T *x, const float *w, const Angles &angles, T *out, u64 rows, float eps) {
  const u64 row = warp_row(), dim = 2 * angles.half, at = angles.at(row);
  if (row >= rows) return;
  x += row * dim, out += row * dim;
  const float r = inverse_rms(x, dim, eps);
  for (u64 i = lane(); i < angles.half; i += WARP) {
    const Pair p = pair_of(x, i);
    const float a = p.a * r * w[2 * i], b = p.b * r * w[2 * i + 1];
    const float cos = angles.cos[at + i], sin = angles.sin[at + i];
    out[2 * i] = stored<T>(a * cos - b * sin);
    out[2 * i + 1] = stored<T>(b * cos + a * sin);
  }
}

// With u = g rotated back, times the weight, and r = 1 / rms: r * (u - x * r^2 * mean(u * x)).
template <typename T>
__device__ void input_gradient(const T *x, const float *w, const T *g, const Angles &angles, T *dx, u64 rows, float eps) {
  const u64 row = warp_row(), dim = 2 * angles.half, at = angles.at(row);
  if (row >= rows) return;
  x += row * dim, g += row * dim, dx += row * dim;
  const float r = inverse_rms(x, dim, eps);
  float sum = 0;
  for (u64 i = lane(); i < angles.half; i += WARP) {
    const Pair u = rotated_back(g, angles, at, i), p = pair_of(x, i);
    sum += u.a * w[2 * i] * p.a + u.b * w[2 * i + 1] * p.b;
  }
  const float mean = warp_sum(sum) / (float)dim * r * r;
  for (u64 i = lane(); i < angles.half; i += WARP) {
    const Pair u = rotated_back(g, angles, at, i), p = pair_of(x, i);
    dx[2 * i] = stored<T>(r * (u.a * w[2 * i] - p.a * mean));
    dx[2 * i + 1] = stored<T>(r * (u.b * w[2 * i + 1] - p.b * mean));
  }
}

// Gradient of the weight, first pass: over a chunk of rows, the sum of x * r times g rotated back. A thread has a pair.
template <typename T>
__device__ void weight_gradient(const T *x, const T *g, const float *r, const Angles &angles, float *partial, u64 rows,
                                u64 chunk) {
  const Tile tile(rows, angles.half, chunk);
  const u64 dim = 2 * angles.half, i = tile.column;
  if (i >= angles.half) return;
  Pair sum = {0, 0};
  for (u64 row = tile.first; row < tile.last; ++row) {
    const Pair u = rotated_back(g + row * dim, angles, angles.at(row), i), p = pair_of(x + row * dim, i);
    sum.a += u.a * p.a * r[row];
    sum.b += u.b * p.b * r[row];
  }
  partial[tile.out * dim + 2 * i] = sum.a;
  partial[tile.out * dim + 2 * i + 1] = sum.b;
}

#define ANGLES const float *cos, const float *sin, u64 rows, u64 tokens, u64 heads, u64 half, u32 shared
#define ENTRIES(T, suffix)                                                                                             \
  ENTRY(rms_norm_rope_##suffix, const T *x, const float *w, T *out, float eps, ANGLES) {                               \
    forward(x, w, Angles{cos, sin, tokens, heads, half, shared}, out, rows, eps);                                      \
  }                                                                                                                    \
  ENTRY(rms_norm_rope_dx_##suffix, const T *x, const float *w, const T *g, T *dx, float eps, ANGLES) {                 \
    input_gradient(x, w, g, Angles{cos, sin, tokens, heads, half, shared}, dx, rows, eps);                             \
  }                                                                                                                    \
  ENTRY(inverse_rms_##suffix, const T *x, float *r, u64 rows, u64 dim, float eps) {                                    \
    const u64 row = warp_row();                                                                                        \
    if (row >= rows) return;                                                                                           \
    const float of_row = inverse_rms(x + row * dim, dim, eps);                                                         \
    if (lane() == 0) r[row] = of_row;                                                                                  \
  }                                                                                                                    \
  ENTRY(rms_norm_rope_dw_##suffix, const T *x, const T *g, const float *r, float *partial, u64 chunk, ANGLES) {        \
    weight_gradient(x, g, r, Angles{cos, sin, tokens, heads, half, shared}, partial, rows, chunk);                     \
  }
ENTRIES(float, f32)
ENTRIES(bf16, bf16)
#undef ENTRIES
#undef ANGLES
