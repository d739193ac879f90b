// What optimizers do to flat float32 buffers, in place.
#include "shared.cuh"

// AdamW (arXiv:1711.05101) in the order of torch.optim.AdamW. The hyperparameters are those that the host made of the step.
struct Step {
  float size;         // lr / (1 - beta1^step)
  float inverse_root; // 1 / sqrt(1 - beta2^step)
  float decay;        // 1 - lr * weight_decay
  float eps, rest1, beta2, rest2; // rest is 1 - beta

  __device__ float first(float m, float g) const { return m + rest1 * (g - m); }
  __device__ float second(float v, float g) const { return v * beta2 + rest2 * g * g; }
  __device__ float weight(float w, float m, float v) const {
    return w * decay - size * m / (sqrtf(v) * inverse_root + eps);
  }
};
#define STEP float size, float inverse_root, float decay, float eps, float rest1, float beta2, float rest2
#define AS_STEP Step{size, inverse_root, decay, eps, rest1, beta2, rest2}

ENTRY(adamw_f32, float *weight, const float *gradient, float *first, float *second, u64 n, STEP) {
  const Step step = AS_STEP;
  const u64 i = element();
  if (i >= n) return;
  const float g = gradient[i], m = step.first(first[i], g), v = step.second(second[i], g);
  first[i] = m;
  second[i] = v;
  weight[i] = step.weight(weight[i], m, v);
}

// Index of the number in a sorted table of 256 that is nearest to x; of two, the lower.
__device__ inline u8 nearest(const float *table, float x) {
  u32 low = 0; // the last that is not above x
  for (u32 half = 128; half > 0; half /= 2)
    if (table[low + half] <= x) low += half;
  return (u8)(low < 255 && table[low + 1] - x < x - table[low] ? low + 1 : low);
}

// The same with moments of a byte: codes into a table `[256]` of -1..1 (0..1 for the second moment), times the largest
// magnitude of their block of 256 (arXiv:2110.02861). A block of threads has a block of moments.
ENTRY(adamw8_f32, float *weight, const float *gradient, u8 *first, float *first_scale, u8 *second, float *second_scale,
      const float *first_table, const float *second_table, u64 n, STEP) {
  __shared__ float tables[2][256];
  const Step step = AS_STEP;
  const u64 i = element(), block = blockIdx.x;
  tables[0][threadIdx.x] = first_table[threadIdx.x];
  tables[1][threadIdx.x] = second_table[threadIdx.x];
  __syncthreads();
  float m = 0, v = 0;
  if (i < n) {
    const float g = gradient[i];
    m = step.first(tables[0][first[i]] * first_scale[block], g);
    v = step.second(tables[1][second[i]] * second_scale[block], g);
    weight[i] = step.weight(weight[i], m, v);
  }
  const float m_scale = block_max(fabsf(m)), v_scale = block_max(v);
  if (i < n) {
    first[i] = nearest(tables[0], m_scale > 0 ? m / m_scale : 0);
    second[i] = nearest(tables[1], v_scale > 0 ? v / v_scale : 0);
  }
  if (threadIdx.x != 0) return; // the scales were read before block_max let anyone pass
  first_scale[block] = m_scale;
  second_scale[block] = v_scale;
}

// Sums of squares of pieces, which sum_f64 adds up.
ENTRY(squares_f32, const float *x, double *partial, u64 n, u64 piece) {
  const u64 first = blockIdx.x * piece, last = first + piece < n ? first + piece : n;
  double sum = 0;
  for (u64 i = first + threadIdx.x; i < last; i += blockDim.x) sum += (double)x[i] * (double)x[i];
  sum = block_reduce<Sum>(sum);
  if (threadIdx.x == 0) partial[blockIdx.x] = sum;
}

// Scales x so that a norm, whose square the device has, is at most max_norm: torch's clip_grad_norm_.
ENTRY(clip_f32, float *x, const double *squares, u64 n, float max_norm) {
  const u64 i = element();
  const double factor = (double)max_norm / (sqrt(*squares) + 1e-6);
  if (i < n && factor < 1.0) x[i] *= (float)factor;
}

ENTRY(scale_f32, float *x, u64 n, float factor) {
  const u64 i = element();
  if (i < n) x[i] *= factor;
}
