// What every kernel file needs: element types, indices, reductions over a warp and a block.
//
// Values are float32 or bfloat16 in memory and float32 in registers. Every index is 64 bits wide: attention scores pass 2^31
// elements. Nothing is added up with atomics, so that results do not depend on the order in which blocks run.
#pragma once

#ifdef FLOWTUNE_EMULATE
#include "emulate/cuda.h"
#else
#include <cuda_bf16.h>
// An entry point, which the launcher finds by name.
#define ENTRY(name, ...) extern "C" __global__ void name(__VA_ARGS__)
#endif

using u8 = unsigned char;
using i8 = signed char;
using u32 = unsigned int;
using u64 = unsigned long long;
using bf16 = __nv_bfloat16;

constexpr u32 WARP = 32;

__device__ inline float load(float x) { return x; }
__device__ inline float load(bf16 x) { return __bfloat162float(x); }

// `x` rounded to what is stored, to nearest, ties to even.
template <typename T> __device__ T stored(float x);
template <> __device__ inline float stored<float>(float x) { return x; }
template <> __device__ inline bf16 stored<bf16>(float x) { return __float2bfloat16_rn(x); }

// Element of this thread when each thread has one.
__device__ inline u64 element() { return (u64)blockIdx.x * blockDim.x + threadIdx.x; }

// Row of this thread's warp when each warp has one.
__device__ inline u64 warp_row() { return element() / WARP; }

__device__ inline u32 lane() { return threadIdx.x % WARP; }

struct Sum {
  template <typename T> static __device__ T join(T a, T b) { return a + b; }
};
struct Max {
  template <typename T> static __device__ T join(T a, T b) { return a > b ? a : b; }
};

// Over the threads of a warp, all of which must call and get the result.
template <typename Op, typename T> __device__ T warp_reduce(T value) {
  for (int distance = WARP / 2; distance > 0; distance /= 2)
    value = Op::join(value, __shfl_xor_sync(0xffffffffu, value, distance));
  return value;
}

// Over the threads of a block, whole warps, all of which must call and get the result.
template <typename Op, typename T> __device__ T block_reduce(T value) {
  __shared__ T of_warp[32];
  value = warp_reduce<Op>(value);
  if (blockDim.x == WARP) return value;
  __syncthreads(); // what an earlier reduction left has been read
  if (lane() == 0) of_warp[threadIdx.x / WARP] = value;
  __syncthreads();
  value = of_warp[0];
  for (u32 warp = 1; warp < blockDim.x / WARP; ++warp) value = Op::join(value, of_warp[warp]);
  return value;
}

__device__ inline float warp_sum(float value) { return warp_reduce<Sum>(value); }
__device__ inline float block_sum(float value) { return block_reduce<Sum>(value); }
__device__ inline float block_max(float value) { return block_reduce<Max>(value); }

// Sums over the rows of each sample of `[batch, rows, dim]`, first pass: the rows are cut into chunks, the columns into
// tiles of a block's width. A block has one tile of one chunk, a thread one column of it; sums.cu adds up the chunks.
struct Tile {
  u64 column;      // of this thread; may be past the last
  u64 sample;
  u64 first, last; // rows, within the sample
  u64 out;         // row of `[batch * chunks, dim]` that the sums go to

  __device__ Tile(u64 rows, u64 dim, u64 chunk) {
    const u64 tiles = (dim + blockDim.x - 1) / blockDim.x, chunks = (rows + chunk - 1) / chunk;
    out = blockIdx.x / tiles;
    column = blockIdx.x % tiles * blockDim.x + threadIdx.x;
    sample = out / chunks;
    first = out % chunks * chunk;
    last = first + chunk < rows ? first + chunk : rows;
  }
};
