// Quantised weights of a frozen model back to T, and rounding that is right on average.
#include "shared.cuh"

// nf4 (arXiv:2305.14314): two codes in a byte, the first in the high half, and a float32 scale for each 64. A block of
// threads has 512 elements, a thread one byte.
constexpr u64 NF4_BLOCK = 64;

template <typename T> __device__ void nf4(const u8 *codes, const float *scales, const float *table, T *out, u64 n) {
  __shared__ float values[16];
  if (threadIdx.x < 16) values[threadIdx.x] = table[threadIdx.x];
  __syncthreads();
  const u64 byte = element(), i = 2 * byte;
  if (i >= n) return;
  const float scale = scales[i / NF4_BLOCK];
  const u8 code = codes[byte];
  out[i] = stored<T>(values[code >> 4] * scale);
  if (i + 1 < n) out[i + 1] = stored<T>(values[code & 15] * scale);
}

// Integers of a byte with a scale for each row. A block has a row.
template <typename T> __device__ void int8_rows(const i8 *data, const float *scales, T *out, u64 rows, u64 dim) {
  const u64 row = blockIdx.x;
  if (row >= rows) return;
  data += row * dim, out += row * dim;
  const float scale = scales[row];
  for (u64 j = threadIdx.x; j < dim; j += blockDim.x) out[j] = stored<T>((float)data[j] * scale);
}

#define ENTRIES(T, suffix)                                                                                             \
  ENTRY(nf4_##suffix, const u8 *codes, const float *scales, const float *table, T *out, u64 n) {                       \
    nf4(codes, scales, table, out, n);                                                                                 \
  }                                                                                                                    \
  ENTRY(int8_rows_##suffix, const i8 *data, const float *scales, T *out, u64 rows, u64 dim) {                          \
    int8_rows(data, scales, out, rows, dim);                                                                           \
  }
ENTRIES(float, f32)
ENTRIES(bf16, bf16)
#undef ENTRIES

// 16 bits that look random, from a seed and an index: the finaliser of SplitMix64.
__device__ inline u32 noise(u64 seed, u64 i) {
  u64 z = seed + (i + 1) * 0x9e3779b97f4a7c15ull;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
  return (u32)((z ^ (z >> 31)) >> 48);
}

// x rounded up or down to bfloat16, up with the probability that its distance says. Element i of x is element start + i of
// the buffer that the seed stands for.
ENTRY(stochastic_round_bf16, const float *x, bf16 *out, u64 n, u64 seed, u64 start) {
  const u64 i = element();
  if (i >= n) return;
  const u32 bits = __float_as_uint(x[i]);
  const bool finite = (bits & 0x7f800000u) != 0x7f800000u;
  const u32 rounded = finite ? (bits + noise(seed, start + i)) & 0xffff0000u : bits;
  out[i] = __float2bfloat16_rn(__uint_as_float(rounded));
}
