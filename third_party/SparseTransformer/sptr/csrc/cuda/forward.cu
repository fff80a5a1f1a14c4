// Forward: a thread owns a query; softmax online, one key after the other.

#include "memory.cuh"

namespace sptr_cuda {
namespace {

// A sum is rescaled only when a logit exceeds the present reference by this much; exp(16) * 1e9 keys is far from overflow
constexpr float kSlack = 16.0f;

template <int D>
struct Sums {  // of one query: relative to exp(reference)
  float value[D] = {};
  float total = 0.0f, reference = -INFINITY;
};

template <int D>
__device__ inline void move_reference(const Shape& s, Sums<D>& sums, float* histogram, float logit) {
  if (sums.total > 0.0f) {
    const float scale = expf(sums.reference - logit);
    sums.total *= scale;
#pragma unroll
    for (int c = 0; c < D; ++c) sums.value[c] *= scale;
    for (int row = 0; row < s.rows; ++row) histogram[row * static_cast<int>(blockDim.x)] *= scale;
  }
  sums.reference = logit;
}

// Keys `first` to `last` of the tile
template <int D, bool kRadial>
__device__ inline void attend(const Shape& s, const Owned& query, const float (&q)[D], const ForwardMemory& m,
                              int64_t tile, int first, int last, Sums<D>& sums) {
  constexpr int kGroup = kGroupOf<D>;
  const float* own = m.own + threadIdx.x;
  float* histogram = m.histogram + threadIdx.x;
  const int begin = clip(query.begin - tile), end = clip(query.end - tile);
  for (int base = first / kGroup * kGroup; base < last; base += kGroup) {
    float logit[kGroup];
    Pair pair[kGroup];
#pragma unroll
    for (int u = 0; u < kGroup; ++u) {
      const int j = base + u;
      pair[u] = Pair::find<kRadial, +1>(s, query, m.keys.place[j]);
      logit[u] = dot(q, m.keys.first + j * D) + sum_at(own, pair[u].column) + sum_at(m.lookup + j * s.stride, pair[u].row);
    }
#pragma unroll
    for (int u = 0; u < kGroup; ++u) {
      const int j = base + u;
      if (j < begin || j >= end) continue;
      if (logit[u] > sums.reference + kSlack) move_reference(s, sums, histogram, logit[u]);
      const float weight = expf(logit[u] - sums.reference);
      sums.total += weight;
      add_scaled(sums.value, weight, m.keys.second + j * D);
      add_at(histogram, pair[u].column, weight);
    }
  }
}

template <int D, bool kRadial>
__global__ void __launch_bounds__(kMaxBlock) forward_kernel(const Attention a) {
  SPTR_DYNAMIC_SHARED(shared);
  const Shape s(a);
  const int block = blockDim.x, head = static_cast<int>(blockIdx.x % a.heads);
  const ForwardMemory m(Carver(shared), s, block, D);
  const Owned query(a, (a.first_tile + blockIdx.x / a.heads) * block + threadIdx.x);
  const int64_t table = head * s.table_size(D);
  float q[D];
  load_owned(a, a.q, query, head, q);
  build_lookup<D, kRadial, +1>(s, q, a.table_q + table, query.bin[0], query.bin[1], query.bin[2], 0, 1,
                               m.own + threadIdx.x, block);
  for (int row = 0; row < s.rows; ++row) m.histogram[row * block + threadIdx.x] = 0.0f;
  Sums<D> sums;
  const Span span(query);
  for (int64_t tile = span.begin; tile < span.end; tile += kTile) {
    __syncthreads();  // everyone is done with the tile before
    load_tile<D>(a, a.k, a.v, head, tile, span.end, m.keys);
    __syncthreads();
    build_tile<D, kRadial, -1>(s, m.keys, m.keys.first, a.table_k + table, m.lookup);
    __syncthreads();
    attend<D, kRadial>(s, query, q, m, tile, clip(span.warp_begin - tile), clip(span.warp_end - tile), sums);
  }
  if (query.id < 0) return;
  add_table<D, kRadial, +1>(s, sums.value, m.histogram + threadIdx.x, query, a.table_v + table);
  const float scale = sums.total == 0.0f ? 0.0f : 1.0f / sums.total;
#pragma unroll
  for (int c = 0; c < D; ++c) sums.value[c] *= scale;
  store_owned(a, a.out, query, head, sums.value);
  a.lse[query.id * a.heads + head] = sums.reference + logf(sums.total);
}

template <int D, bool kRadial>
cudaError_t launch_forward(const Attention& a, cudaStream_t stream) {
  return launch_tiles(forward_kernel<D, kRadial>, a, a.block_forward,
                      ForwardMemory(Carver(nullptr), Shape(a), a.block_forward, D).floats, stream);
}

// The largest tile that fits, unless a smaller one is needed to give every multiprocessor work; 0 when none fits
template <typename Memory>
int choose_block(const Attention& a, int shared_bytes, int processors) {
  int chosen = 0;
  for (int block = kMaxBlock; block >= kTile; block /= 2) {
    if (Memory(Carver(nullptr), Shape(a), block, a.padded).floats * sizeof(float) > static_cast<size_t>(shared_bytes))
      continue;
    chosen = block;
    if ((a.tokens + block - 1) / block * a.heads >= 2 * processors) break;
  }
  return chosen;
}

}  // namespace
}  // namespace sptr_cuda

extern "C" {

int64_t sptr_cuda_args_size() { return sizeof(sptr_cuda::Attention); }

const char* sptr_cuda_error(int error) { return cudaGetErrorString(static_cast<cudaError_t>(error)); }

// Fills in the tile sizes; a size of 0 means that the tables are too long for this device's shared memory
int sptr_cuda_plan(sptr_cuda::Attention* a) {
  using namespace sptr_cuda;
  int bytes = 0, processors = 0;
  cudaError_t error = use_device(*a);
  if (error == cudaSuccess)
    error = cudaDeviceGetAttribute(&bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, a->device);
  if (error == cudaSuccess) error = cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, a->device);
  if (error != cudaSuccess) return error;
  bytes -= 64;  // the static part: see Span
  a->block_forward = choose_block<ForwardMemory>(*a, bytes, processors);
  a->block_query = choose_block<QueryMemory>(*a, bytes, processors);
  a->block_key = choose_block<KeyMemory>(*a, bytes, processors);
  return cudaSuccess;
}

int sptr_cuda_forward(const sptr_cuda::Attention* a, void* stream) {
  using namespace sptr_cuda;
  const cudaError_t error = use_device(*a);
  return error != cudaSuccess ? error : SPTR_DISPATCH(launch_forward, *a, static_cast<cudaStream_t>(stream));
}

}  // extern "C"
