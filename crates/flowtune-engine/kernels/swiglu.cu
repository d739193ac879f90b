// silu(first half) * second half of a row: x `[rows, 2 * dim]` -> `[rows, dim]`. A block has one row.
#include "shared.cuh"

__device__ inline float sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }

template <typename T> __device__ void forward(const T *x, T *out, u64 rows, u64 dim) {
  const u64 row = blockIdx.x;
  if (row >= rows) return;
  const T *gates = x + row * 2 * dim, *ups = gates + dim;
  out += row * dim;
  for (u64 j = threadIdx.x; j < dim; j += blockDim.x) {
    const float gate = load(gates[j]);
    out[j] = stored<T>(gate * sigmoid(gate) * load(ups[j]));
  }
}

template <typename T> __device__ void backward(const T *x, const T *g, T *dx, u64 rows, u64 dim) {
  const u64 row = blockIdx.x;
  if (row >= rows) return;
  const T *gates = x + row * 2 * dim, *ups = gates + dim;
  g += row * dim, dx += row * 2 * dim;
  for (u64 j = threadIdx.x; j < dim; j += blockDim.x) {
    const float gate = load(gates[j]), up = load(ups[j]), grad = load(g[j]), s = sigmoid(gate);
    dx[j] = stored<T>(grad * up * s * (1.0f + gate * (1.0f - s)));
    dx[dim + j] = stored<T>(grad * gate * s);
  }
}

#define ENTRIES(T, suffix)                                                                                             \
  ENTRY(swiglu_##suffix, const T *x, T *out, u64 rows, u64 dim) { forward(x, out, rows, dim); }                        \
  ENTRY(swiglu_dx_##suffix, const T *x, const T *g, T *dx, u64 rows, u64 dim) { backward(x, g, dx, rows, dim); }
ENTRIES(float, f32)
ENTRIES(bf16, bf16)
#undef ENTRIES
