// Backward, second pass: a thread owns a key and sums over the queries. Gradients of k, v and the key table.

#include "memory.cuh"

namespace sptr_cuda {
namespace {

template <int D>
struct KeySide {
  float k[D], v[D], grad_k[D], grad_v[D];
};

template <int D, bool kRadial>
__device__ inline void meet_queries(const Shape& s, const Owned& key, const KeyMemory& m, int64_t tile, int first,
                                    int last, KeySide<D>& side) {
  constexpr int kGroup = kGroupOf<D>;
  const float* own = m.own + threadIdx.x;
  const int begin = clip(key.begin - tile), end = clip(key.end - tile);
  for (int base = first / kGroup * kGroup; base < last; base += kGroup) {
    float logit[kGroup], product[kGroup];
    Pair pair[kGroup];
#pragma unroll
    for (int u = 0; u < kGroup; ++u) {
      const int i = base + u;
      pair[u] = Pair::find<kRadial, -1>(s, key, m.queries.place[i]);
      logit[u] = dot(side.k, m.queries.first + i * D) + sum_at(own, pair[u].column) +
                 sum_at(m.lookup_q + i * s.stride, pair[u].row);
      product[u] = dot(side.v, m.queries.second + i * D) + sum_at(m.lookup_v + i * s.stride, pair[u].row);
    }
#pragma unroll
    for (int u = 0; u < kGroup; ++u) {
      const int i = base + u;
      if (i < begin || i >= end) continue;
      const float weight = expf(logit[u] - m.lse[i]);
      const float slope = weight * (product[u] - m.delta[i]);
      add_scaled(side.grad_k, slope, m.queries.first + i * D);
      add_scaled(side.grad_v, weight, m.queries.second + i * D);
      add_at(m.logits + threadIdx.x, pair[u].column, slope);
    }
  }
}

template <int D, bool kRadial>
__global__ void __launch_bounds__(kMaxBlock) key_kernel(const Attention a) {
  SPTR_DYNAMIC_SHARED(shared);
  const Shape s(a);
  const int block = blockDim.x, head = static_cast<int>(blockIdx.x % a.heads);
  const KeyMemory m(Carver(shared), s, block, D);
  const Owned key(a, (a.first_tile + blockIdx.x / a.heads) * block + threadIdx.x);
  const int64_t table = head * s.table_size(D);
  KeySide<D> side;
  load_owned(a, a.k, key, head, side.k);
  load_owned(a, a.v, key, head, side.v);
#pragma unroll
  for (int c = 0; c < D; ++c) side.grad_k[c] = side.grad_v[c] = 0.0f;
  build_lookup<D, kRadial, -1>(s, side.k, a.table_k + table, key.bin[0], key.bin[1], key.bin[2], 0, 1,
                               m.own + threadIdx.x, block);
  for (int row = 0; row < s.rows; ++row) m.logits[row * block + threadIdx.x] = 0.0f;
  const Span span(key);
  for (int64_t tile = span.begin; tile < span.end; tile += kTile) {
    __syncthreads();  // everyone is done with the tile before
    load_tile<D>(a, a.q, a.grad_out, head, tile, span.end, m.queries);
    if (threadIdx.x < kTile) {
      const bool real = tile + threadIdx.x < span.end;
      const int64_t at = real ? a.order[tile + threadIdx.x] * a.heads + head : 0;
      m.lse[threadIdx.x] = real ? a.lse[at] : 0.0f;
      m.delta[threadIdx.x] = real ? a.delta[at] : 0.0f;
    }
    __syncthreads();
    build_tile<D, kRadial, +1>(s, m.queries, m.queries.first, a.table_q + table, m.lookup_q);
    build_tile<D, kRadial, +1>(s, m.queries, m.queries.second, a.table_v + table, m.lookup_v);
    __syncthreads();
    meet_queries<D, kRadial>(s, key, m, tile, clip(span.warp_begin - tile), clip(span.warp_end - tile), side);
  }
  add_table<D, kRadial, -1>(s, side.grad_k, m.logits + threadIdx.x, key, a.table_k + table);
  store_owned(a, a.grad_k, key, head, side.grad_k);
  store_owned(a, a.grad_v, key, head, side.grad_v);

  __syncthreads();  // everyone is done with the look-ups
  stage(side.k, m.own);
  for (int axis = 0; axis < 3; ++axis) m.bin[axis * block + threadIdx.x] = key.bin[axis];
  __syncthreads();
  const int64_t slot = a.partial ? blockIdx.x / a.heads * (a.heads * s.table_size(D)) + table : table;
  table_gradient<D, kRadial, -1>(s, m.logits, m.own, m.bin, a.grad_table_k + slot, a.partial);
}

template <int D, bool kRadial>
cudaError_t launch_keys(const Attention& a, cudaStream_t stream) {
  return launch_tiles(key_kernel<D, kRadial>, a, a.block_key,
                      KeyMemory(Carver(nullptr), Shape(a), a.block_key, D).floats, stream);
}

}  // namespace
}  // namespace sptr_cuda

extern "C" int sptr_cuda_backward_keys(const sptr_cuda::Attention* a, void* stream) {
  using namespace sptr_cuda;
  const cudaError_t error = use_device(*a);
  return error != cudaSuccess ? error : SPTR_DISPATCH(launch_keys, *a, static_cast<cudaStream_t>(stream));
}
