// Second pass of sums over rows: adds up what the blocks of the first left.
#include "shared.cuh"

// partial `[batch, chunks, dim]` -> out `[batch, dim]`. A block has 32 columns; its warps go over the chunks in turn.
ENTRY(sum_chunks_f32, const float *partial, float *out, u64 batch, u64 chunks, u64 dim) {
  __shared__ float sums[32][WARP];
  const u64 tiles = (dim + WARP - 1) / WARP;
  const u64 sample = blockIdx.x / tiles, column = blockIdx.x % tiles * WARP + lane();
  const u32 warp = threadIdx.x / WARP, warps = blockDim.x / WARP;
  if (sample >= batch) return;
  float sum = 0;
  if (column < dim)
    for (u64 chunk = warp; chunk < chunks; chunk += warps) sum += partial[(sample * chunks + chunk) * dim + column];
  sums[warp][lane()] = sum;
  __syncthreads();
  if (warp != 0 || column >= dim) return;
  for (u32 other = 1; other < warps; ++other) sum += sums[other][lane()];
  out[sample * dim + column] = sum;
}

// The sum of `count` numbers, by one block.
ENTRY(sum_f64, const double *x, double *out, u64 count) {
  double sum = 0;
  for (u64 i = threadIdx.x; i < count; i += blockDim.x) sum += x[i];
  sum = block_reduce<Sum>(sum);
  if (threadIdx.x == 0) *out = sum;
}
