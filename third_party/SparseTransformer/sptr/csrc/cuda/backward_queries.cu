// Backward, first pass: a thread owns a query and sums over the keys. Gradients of q and of the query and value tables.
//
// Neither pass adds to memory that another block adds to, but for the table gradients, once per block. Softmax weights
// come back from the logits and the saved log of the denominators.

#include "memory.cuh"

namespace sptr_cuda {
namespace {

template <int D>
struct QuerySide {
  float q[D], grad[D], grad_q[D];
  float lse = 0.0f, delta = 0.0f;
};

template <int D, bool kRadial>
__device__ inline void meet_keys(const Shape& s, const Owned& query, const QueryMemory& m, int64_t tile, int first,
                                 int last, QuerySide<D>& side) {
  constexpr int kGroup = kGroupOf<D>;
  const float *own_q = m.own_q + threadIdx.x, *own_v = m.own_v + threadIdx.x;
  const int begin = clip(query.begin - tile), end = clip(query.end - tile);
  for (int base = first / kGroup * kGroup; base < last; base += kGroup) {
    float logit[kGroup], product[kGroup];
    Pair pair[kGroup];
#pragma unroll
    for (int u = 0; u < kGroup; ++u) {
      const int j = base + u;
      pair[u] = Pair::find<kRadial, +1>(s, query, m.keys.place[j]);
      logit[u] = dot(side.q, m.keys.first + j * D) + sum_at(own_q, pair[u].column) +
                 sum_at(m.lookup + j * s.stride, pair[u].row);
      product[u] = dot(side.grad, m.keys.second + j * D) + sum_at(own_v, pair[u].column);
    }
#pragma unroll
    for (int u = 0; u < kGroup; ++u) {
      const int j = base + u;
      if (j < begin || j >= end) continue;
      const float weight = expf(logit[u] - side.lse);
      const float slope = weight * (product[u] - side.delta);
      add_scaled(side.grad_q, slope, m.keys.first + j * D);
      add_at(m.logits + threadIdx.x, pair[u].column, slope);
      add_at(m.weights + threadIdx.x, pair[u].column, weight);
    }
  }
}

template <int D, bool kRadial>
__global__ void __launch_bounds__(kMaxBlock) query_kernel(const Attention a) {
  SPTR_DYNAMIC_SHARED(shared);
  const Shape s(a);
  const int block = blockDim.x, head = static_cast<int>(blockIdx.x % a.heads);
  const QueryMemory m(Carver(shared), s, block, D);
  const Owned query(a, (a.first_tile + blockIdx.x / a.heads) * block + threadIdx.x);
  const int64_t table = head * s.table_size(D);
  QuerySide<D> side;
  load_owned(a, a.q, query, head, side.q);
  load_owned(a, a.grad_out, query, head, side.grad);
  if (query.id >= 0) {
    side.lse = a.lse[query.id * a.heads + head];
    side.delta = a.delta[query.id * a.heads + head];
  }
#pragma unroll
  for (int c = 0; c < D; ++c) side.grad_q[c] = 0.0f;
  build_lookup<D, kRadial, +1>(s, side.q, a.table_q + table, query.bin[0], query.bin[1], query.bin[2], 0, 1,
                               m.own_q + threadIdx.x, block);
  build_lookup<D, kRadial, +1>(s, side.grad, a.table_v + table, query.bin[0], query.bin[1], query.bin[2], 0, 1,
                               m.own_v + threadIdx.x, block);
  for (int row = 0; row < s.rows; ++row) {
    m.logits[row * block + threadIdx.x] = 0.0f;
    m.weights[row * block + threadIdx.x] = 0.0f;
  }
  const Span span(query);
  for (int64_t tile = span.begin; tile < span.end; tile += kTile) {
    __syncthreads();  // everyone is done with the tile before
    load_tile<D>(a, a.k, a.v, head, tile, span.end, m.keys);
    __syncthreads();
    build_tile<D, kRadial, -1>(s, m.keys, m.keys.first, a.table_k + table, m.lookup);
    __syncthreads();
    meet_keys<D, kRadial>(s, query, m, tile, clip(span.warp_begin - tile), clip(span.warp_end - tile), side);
  }
  add_table<D, kRadial, +1>(s, side.grad_q, m.logits + threadIdx.x, query, a.table_q + table);
  store_owned(a, a.grad_q, query, head, side.grad_q);

  __syncthreads();  // everyone is done with the look-ups
  stage(side.q, m.own_q);
  stage(side.grad, m.own_v);
  for (int axis = 0; axis < 3; ++axis) m.bin[axis * block + threadIdx.x] = query.bin[axis];
  __syncthreads();
  const int64_t slot = a.partial ? blockIdx.x / a.heads * (a.heads * s.table_size(D)) + table : table;
  table_gradient<D, kRadial, +1>(s, m.logits, m.own_q, m.bin, a.grad_table_q + slot, a.partial);
  table_gradient<D, kRadial, +1>(s, m.weights, m.own_v, m.bin, a.grad_table_v + slot, a.partial);
}

template <int D, bool kRadial>
cudaError_t launch_queries(const Attention& a, cudaStream_t stream) {
  return launch_tiles(query_kernel<D, kRadial>, a, a.block_query,
                      QueryMemory(Carver(nullptr), Shape(a), a.block_query, D).floats, stream);
}

}  // namespace
}  // namespace sptr_cuda

extern "C" int sptr_cuda_backward_queries(const sptr_cuda::Attention* a, void* stream) {
  using namespace sptr_cuda;
  const cudaError_t error = use_device(*a);
  return error != cudaSuccess ? error : SPTR_DISPATCH(launch_queries, *a, static_cast<cudaStream_t>(stream));
}
