// The part of CUDA C++ that the kernels use, for a C++ compiler: the threads of a block are fibers, which barriers and
// shuffles really make wait (runtime.h).
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#define __global__
#define __device__
// Blocks run one after the other on a thread of the host.
#define __shared__ static thread_local

namespace emulate {

struct Index {
  uint32_t x;
};
extern thread_local Index thread_index, block_index, block_dim, grid_dim;

// Returns when all threads of the block have called it.
void barrier();
// Returns what lane `source` gave when all lanes of the warp have called it.
uint64_t exchange(uint64_t value, uint32_t source);

} // namespace emulate

#define threadIdx (emulate::thread_index)
#define blockIdx (emulate::block_index)
#define blockDim (emulate::block_dim)
#define gridDim (emulate::grid_dim)

inline void __syncthreads() { emulate::barrier(); }

template <typename T> T __shfl_xor_sync(uint32_t lanes, T value, int distance) {
  static_assert(sizeof(T) <= sizeof(uint64_t), "a register or two");
  if (lanes != 0xffffffffu) __builtin_trap(); // only whole warps here
  uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof(T));
  bits = emulate::exchange(bits, (emulate::thread_index.x % 32) ^ static_cast<uint32_t>(distance));
  std::memcpy(&value, &bits, sizeof(T));
  return value;
}

inline uint32_t __float_as_uint(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  return bits;
}

inline float __uint_as_float(uint32_t bits) {
  float x;
  std::memcpy(&x, &bits, sizeof x);
  return x;
}

struct __nv_bfloat16 {
  uint16_t bits;
};

inline float __bfloat162float(__nv_bfloat16 x) { return __uint_as_float(static_cast<uint32_t>(x.bits) << 16); }

// To nearest, ties to even; any NaN becomes the one that the hardware makes.
inline __nv_bfloat16 __float2bfloat16_rn(float x) {
  const uint32_t bits = __float_as_uint(x);
  if (x != x) return {0x7fff};
  return {static_cast<uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16)};
}

#include "entry.h"
