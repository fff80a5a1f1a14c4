// Gradient of the weights: for each offset the product of the gathered inputs, transposed, with the gathered gradients.
// Pairs are cut into chunks of fixed length; each block sums one chunk into its own partial result and a second kernel
// adds the partials in order. No atomic addition: the same bits in every run.
#pragma once

#include "conv.cuh"

namespace lidistill {

constexpr int kGradTile = 64;  // channels of the input, and of the gradient, per block

struct GradArguments {
  const void* x;            // [n_in, ld_x], ld_x and ld_grad multiples of the type's kVector, 16-byte aligned
  const void* grad;         // [n_out, ld_grad]
  float* partial;           // [splits, volume, cin, cout]
  const int32_t* rows_in;   // [volume, stride]: the pairs of each offset, in front
  const int32_t* rows_out;  // likewise
  const int32_t* count;     // [volume]
  int64_t stride, chunk;    // pairs per block
  int32_t ld_x, ld_grad, cin, cout, volume;
};

template <class E>
struct GradShape {
  static constexpr int kLd = kGradTile + E::kPadB, kTile = E::kDepth * kLd, kStage = 2 * kTile;
  static constexpr int kShared = kStages * kStage * static_cast<int>(sizeof(typename E::T));
  static constexpr int kAcross = kGradTile / E::kVector, kStep = kThreads / kAcross, kCount = E::kDepth / kStep;
};

template <class E>
struct GradLoader {
  typedef typename E::T T;
  typedef GradShape<E> Shape;
  int64_t at, end;
  int32_t in[Shape::kCount], out[Shape::kCount];  // rows of the step at `at`, -1 beyond the end

  __device__ void fetch(const GradArguments& p, int k) {
#pragma unroll
    for (int i = 0; i < Shape::kCount; ++i) {
      const int64_t pair = at + threadIdx.x / Shape::kAcross + i * Shape::kStep;
      in[i] = pair < end ? p.rows_in[k * p.stride + pair] : -1;
      out[i] = pair < end ? p.rows_out[k * p.stride + pair] : -1;
    }
  }
  __device__ void load(const GradArguments& p, int m0, int n0, T* stage) const {
    const T* x = static_cast<const T*>(p.x);
    const T* grad = static_cast<const T*>(p.grad);
    const int column = threadIdx.x % Shape::kAcross * E::kVector;
#pragma unroll
    for (int i = 0; i < Shape::kCount; ++i) {
      T* target = stage + (threadIdx.x / Shape::kAcross + i * Shape::kStep) * Shape::kLd + column;
      const bool a = in[i] >= 0 && m0 + column < p.ld_x, b = out[i] >= 0 && n0 + column < p.ld_grad;
      copy_async(target, a ? x + static_cast<int64_t>(in[i]) * p.ld_x + m0 + column : x, a);
      copy_async(target + Shape::kTile, b ? grad + static_cast<int64_t>(out[i]) * p.ld_grad + n0 + column : grad, b);
    }
  }
};

// Grid: (tiles of cin x cout, volume, splits).
template <class E>
__global__ void __launch_bounds__(kThreads) weight_grad_kernel(GradArguments p) {
  typedef typename E::T T;
  typedef GradShape<E> Shape;
  constexpr int kWarp = kGradTile / 2;
  LD_DYNAMIC_SHARED(shared);
  T* stages = reinterpret_cast<T*>(shared);
  const int column_tiles = (p.cout + kGradTile - 1) / kGradTile;
  const int m0 = blockIdx.x / column_tiles * kGradTile, n0 = blockIdx.x % column_tiles * kGradTile, k = blockIdx.y;
  GradLoader<E> loader;
  loader.at = blockIdx.z * p.chunk;
  loader.end = loader.at + p.chunk < p.count[k] ? loader.at + p.chunk : p.count[k];
  if (loader.at >= loader.end) return;  // the whole block; its partial is never read
  const int steps = static_cast<int>((loader.end - loader.at + E::kDepth - 1) / E::kDepth);
  loader.fetch(p, k);
  auto load = [&](int step) {
    if (step < steps) {
      loader.load(p, m0, n0, stages + step % kStages * Shape::kStage);
      loader.at += E::kDepth;
      loader.fetch(p, k);
    }
    copy_commit();
  };
  Accumulator<kWarp, kWarp> acc = {};
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  for (int step = 0; step < kStages - 1; ++step) load(step);
  for (int step = 0; step < steps; ++step) {
    copy_wait<kStages - 2>();
    __syncthreads();
    load(step + kStages - 1);
    const T* a = stages + step % kStages * Shape::kStage;
    E::template multiply<kWarp, kWarp, true>(acc, a + warp / 2 * kWarp, Shape::kLd, a + Shape::kTile + warp % 2 * kWarp,
                                             Shape::kLd, lane);
  }
  float* out = p.partial + (static_cast<int64_t>(blockIdx.z) * p.volume + k) * p.cin * p.cout;
#pragma unroll
  for (int i = 0; i < kWarp / 8; ++i) {
    const int m = m0 + warp / 2 * kWarp + i * 8 + lane / 4;
#pragma unroll
    for (int j = 0; j < kWarp / 8; ++j)
#pragma unroll
      for (int w = 0; w < 2; ++w) {
        const int n = n0 + warp % 2 * kWarp + j * 8 + lane % 4 * 2 + w;
        if (m < p.cin && n < p.cout) out[static_cast<int64_t>(m) * p.cout + n] = acc[i / 2][j][i % 2 * 2 + w];
      }
  }
}

template <class E>
cudaError_t launch_weight_grad(const GradArguments& p, int splits, void* stream) {
  const int tiles = (p.cin + kGradTile - 1) / kGradTile * ((p.cout + kGradTile - 1) / kGradTile);
  const dim3 grid(tiles, p.volume, splits);
  return launch(weight_grad_kernel<E>, grid, kThreads, GradShape<E>::kShared, stream, p);
}

}  // namespace lidistill
