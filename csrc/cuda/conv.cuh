// Sparse convolution as output-stationary implicit GEMM: a block owns kBM output rows and kBN output channels, gathers
// the input rows of one kernel offset at a time into shared memory and skips the offsets that none of its rows has.
// Nothing is added in memory, so results are the same bits in every run.
#pragma once

#include "elements.cuh"

namespace lidistill {

constexpr int kThreads = 128;  // four warps, two by two over the block's tile
constexpr int kStages = 3;     // tiles in shared memory: one in use, two on their way
constexpr int kGroup = 64;     // rows that share their presence flags

struct ConvArguments {
  const void* x;           // [n_in, cin], cin a multiple of the type's kVector, 16-byte aligned
  const void* weight;      // [volume, cin, ld_weight], likewise
  const float* bias;       // [cout] or null
  const void* residual;    // [n_out, cout] or null
  void* y;                 // [n_out, cout]
  const int32_t* rows;     // [n_out]: the output row at each position
  const int32_t* table;    // [volume, n_out]: input row at each position, or -1
  const uint8_t* present;  // [volume, groups]: some position of this group of kGroup has the offset
  int64_t n_out;
  int32_t cin, ld_weight, cout, volume, relu;
};

template <class E, int kBM, int kBN>
struct ConvShape {
  static constexpr int kLdA = E::kDepth + E::kPadA, kLdB = kBN + E::kPadB;
  static constexpr int kA = kBM * kLdA, kStage = kA + E::kDepth * kLdB;  // elements
  static int shared(int volume) { return kStages * kStage * static_cast<int>(sizeof(typename E::T)) + volume; }
};

// Where a thread of the loader stands: offset `k`, channel `c`, and its rows of this and of the following offset.
template <class E, int kBM>
struct Gather {
  static constexpr int kAcross = E::kDepth / E::kVector;  // vectors per row
  static constexpr int kStep = kThreads / kAcross, kCount = kBM / kStep;
  int k, c, following;
  int32_t row[kCount], ahead[kCount];

  __device__ static int next(const uint8_t* flags, int k, int volume) {
    do ++k;
    while (k < volume && !flags[k]);
    return k;
  }
  __device__ void fetch(const ConvArguments& p, int64_t m0) {  // early, so that nobody waits for an index
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      const int64_t at = m0 + threadIdx.x / kAcross + i * kStep;
      ahead[i] = following < p.volume && at < p.n_out ? p.table[following * p.n_out + at] : -1;
    }
  }
  __device__ void turn(const ConvArguments& p, const uint8_t* flags, int64_t m0) {
    k = following;
    c = 0;
#pragma unroll
    for (int i = 0; i < kCount; ++i) row[i] = ahead[i];
    following = next(flags, k, p.volume);
    fetch(p, m0);
  }
};

template <class E, int kBM, int kBN>
__device__ void load_conv_tiles(const ConvArguments& p, const Gather<E, kBM>& at, int n0, typename E::T* stage) {
  typedef typename E::T T;
  typedef ConvShape<E, kBM, kBN> Shape;
  typedef Gather<E, kBM> G;
  const T* x = static_cast<const T*>(p.x);
  const T* weight = static_cast<const T*>(p.weight);
  const int a_column = threadIdx.x % G::kAcross * E::kVector;
#pragma unroll
  for (int i = 0; i < G::kCount; ++i) {
    const bool valid = at.row[i] >= 0 && at.c + a_column < p.cin;
    const T* source = valid ? x + static_cast<int64_t>(at.row[i]) * p.cin + at.c + a_column : weight;
    copy_async(stage + (threadIdx.x / G::kAcross + i * G::kStep) * Shape::kLdA + a_column, source, valid);
  }
  constexpr int kWide = kBN / E::kVector;
#pragma unroll
  for (int j = threadIdx.x; j < E::kDepth * kWide; j += kThreads) {
    const int row = j / kWide, column = j % kWide * E::kVector;
    const bool valid = at.c + row < p.cin && n0 + column < p.ld_weight;
    const int64_t from = (static_cast<int64_t>(at.k) * p.cin + at.c + row) * p.ld_weight + n0 + column;
    copy_async(stage + Shape::kA + row * Shape::kLdB + column, valid ? weight + from : weight, valid);
  }
}

template <class E, int kBM, int kBN>
__device__ void store_conv_tile(const ConvArguments& p, const Accumulator<kBM / 2, kBN / 2>& acc, int64_t m0, int n0) {
  typedef typename E::T T;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  T* y = static_cast<T*>(p.y);
#pragma unroll
  for (int i = 0; i < kBM / 16; ++i) {  // 8 rows each
    const int64_t at = m0 + warp / 2 * (kBM / 2) + i * 8 + lane / 4;
    if (at >= p.n_out) continue;
    T* row = y + static_cast<int64_t>(p.rows[at]) * p.cout;
    const T* added = p.residual ? static_cast<const T*>(p.residual) + (row - y) : nullptr;
#pragma unroll
    for (int j = 0; j < kBN / 16; ++j) {
      const int n = n0 + warp % 2 * (kBN / 2) + j * 8 + lane % 4 * 2;
      struct alignas(2 * sizeof(T)) Two {
        T v[2];
      } two;
#pragma unroll
      for (int w = 0; w < 2; ++w) {
        float v = acc[i / 2][j][i % 2 * 2 + w];
        if (p.bias && n + w < p.cout) v += p.bias[n + w];
        if (added && n + w < p.cout) v += to_float(added[n + w]);
        if (p.relu) v = v < 0 ? 0.0f : v;  // keeps NaN
        from_float(v, two.v[w]);
      }
      if (n + 1 < p.cout && p.cout % 2 == 0) {
        *reinterpret_cast<Two*>(row + n) = two;
      } else {
        if (n < p.cout) row[n] = two.v[0];
        if (n + 1 < p.cout) row[n + 1] = two.v[1];
      }
    }
  }
}

template <class E, int kBM, int kBN>
__global__ void __launch_bounds__(kThreads) conv_kernel(ConvArguments p) {
  typedef typename E::T T;
  typedef ConvShape<E, kBM, kBN> Shape;
  LD_DYNAMIC_SHARED(shared);
  T* stages = reinterpret_cast<T*>(shared);
  uint8_t* flags = reinterpret_cast<uint8_t*>(stages + kStages * Shape::kStage);
  const int column_tiles = (p.cout + kBN - 1) / kBN;  // neighbours in the grid share their input rows through L2
  const int64_t m0 = blockIdx.x / column_tiles * static_cast<int64_t>(kBM);
  const int n0 = blockIdx.x % column_tiles * kBN;

  const int64_t groups = (p.n_out + kGroup - 1) / kGroup;
  for (int k = threadIdx.x; k < p.volume; k += kThreads) {
    uint8_t any = 0;
    for (int64_t group = m0 / kGroup; group < m0 / kGroup + kBM / kGroup && group < groups; ++group)
      any |= p.present[k * groups + group];
    flags[k] = any;
  }
  __syncthreads();
  int steps = 0;
  for (int k = 0; k < p.volume; ++k) steps += flags[k] != 0;
  steps *= (p.cin + E::kDepth - 1) / E::kDepth;

  Gather<E, kBM> at;
  at.following = at.next(flags, -1, p.volume);
  at.fetch(p, m0);
  at.turn(p, flags, m0);
  auto load = [&](int step) {
    if (step < steps) {
      load_conv_tiles<E, kBM, kBN>(p, at, n0, stages + step % kStages * Shape::kStage);
      at.c += E::kDepth;
      if (at.c >= p.cin) at.turn(p, flags, m0);
    }
    copy_commit();  // also where there was nothing to load, so that groups count steps
  };
  Accumulator<kBM / 2, kBN / 2> acc = {};
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  for (int step = 0; step < kStages - 1; ++step) load(step);
  for (int step = 0; step < steps; ++step) {
    copy_wait<kStages - 2>();
    __syncthreads();  // this step's tiles are there for all, and nobody reads the stage that is filled next
    load(step + kStages - 1);
    const T* a = stages + step % kStages * Shape::kStage;
    E::template multiply<kBM / 2, kBN / 2, false>(acc, a + warp / 2 * (kBM / 2) * Shape::kLdA, Shape::kLdA,
                                                  a + Shape::kA + warp % 2 * (kBN / 2), Shape::kLdB, lane);
  }
  store_conv_tile<E, kBM, kBN>(p, acc, m0, n0);
}

template <class E, int kBM, int kBN>
cudaError_t launch_conv(const ConvArguments& p, void* stream) {
  const int64_t blocks = (p.n_out + kBM - 1) / kBM * ((p.cout + kBN - 1) / kBN);
  if (blocks > 0x7fffffff) return cudaErrorInvalidConfiguration;
  const dim3 grid(static_cast<unsigned>(blocks));
  return launch(conv_kernel<E, kBM, kBN>, grid, kThreads, ConvShape<E, kBM, kBN>::shared(p.volume), stream, p);
}

// One set per element type, each in its own translation unit.
struct GradArguments;
cudaError_t conv(Fp32, const ConvArguments& p, void* stream);
cudaError_t conv(Tf32, const ConvArguments& p, void* stream);
cudaError_t conv(f16, const ConvArguments& p, void* stream);
cudaError_t conv(bf16, const ConvArguments& p, void* stream);
cudaError_t weight_grad(Fp32, const GradArguments& p, int splits, void* stream);
cudaError_t weight_grad(Tf32, const GradArguments& p, int splits, void* stream);
cudaError_t weight_grad(f16, const GradArguments& p, int splits, void* stream);
cudaError_t weight_grad(bf16, const GradArguments& p, int splits, void* stream);

}  // namespace lidistill
