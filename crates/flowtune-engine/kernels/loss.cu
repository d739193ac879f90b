// Mean squared error with a weight per sample: prediction and target `[batch, row]` and weight `[batch]` in float32. A mask,
// where there is one, has the target's shape, and the mean is over its sum.
#include "shared.cuh"

// Squares are added up in float32 within a block's piece of a sample, and in float64 from there on.
constexpr u64 PIECE = 4096;

// Sums of mask * square and of the mask for each piece: `[batch, pieces]` each.
ENTRY(weighted_mse_sums_f32, const float *prediction, const float *target, const float *mask, double *errors,
      double *counts, u64 row) {
  const u64 pieces = (row + PIECE - 1) / PIECE, sample = blockIdx.x / pieces;
  const u64 first = blockIdx.x % pieces * PIECE, last = first + PIECE < row ? first + PIECE : row;
  float error = 0, count = 0;
  for (u64 j = first + threadIdx.x; j < last; j += blockDim.x) {
    const u64 at = sample * row + j;
    const float difference = prediction[at] - target[at], share = mask ? mask[at] : 1.0f;
    error += share * (difference * difference);
    count += share;
  }
  error = block_sum(error), count = block_sum(count);
  if (threadIdx.x != 0) return;
  errors[blockIdx.x] = error;
  counts[blockIdx.x] = count;
}

// out: the loss, the loss with all weights 1, and what the mean is over. One block.
ENTRY(weighted_mse_f32, const double *errors, const double *counts, const float *weight, double *out, u64 batch,
      u64 pieces) {
  double weighted = 0, unweighted = 0, count = 0;
  for (u64 i = threadIdx.x; i < batch * pieces; i += blockDim.x) {
    weighted += errors[i] * (double)weight[i / pieces];
    unweighted += errors[i];
    count += counts[i];
  }
  weighted = block_reduce<Sum>(weighted), unweighted = block_reduce<Sum>(unweighted), count = block_reduce<Sum>(count);
  if (threadIdx.x != 0) return;
  out[0] = weighted / count;
  out[1] = unweighted / count;
  out[2] = count;
}

// Gradient of the prediction: g * 2 / count * weight * mask * (prediction - target); g and count are where the device left
// them, so that nobody has to wait for their values.
ENTRY(weighted_mse_dx_f32, const float *prediction, const float *target, const float *weight, const float *mask,
      const float *g, const double *count, float *dx, u64 n, u64 row) {
  const u64 i = element();
  if (i >= n) return;
  const float factor = (float)((double)*g * 2.0 / *count) * weight[i / row];
  dx[i] = factor * (prediction[i] - target[i]) * (mask ? mask[i] : 1.0f);
}
