// Window attention on CUDA devices: the arguments of every launch, and what they ask of shared memory.
#pragma once

#include <cstddef>
#include <cstdint>

namespace sptr_cuda {

constexpr int kTile = 32;       // tokens of the other side in shared memory at a time; lanes of a warp
constexpr int kMaxBlock = 128;  // tokens a block owns, one per thread; 32, 64 or 128

enum Type : int32_t { kFloat32 = 0, kBfloat16 = 1, kFloat16 = 2 };

struct Attention {
  // Tokens [tokens, heads, dim] of `type`; `order` [tokens] lists them window by window, `ptr` [windows + 1] cuts the list
  const void *q, *k, *v;
  const int64_t *order, *ptr;
  const float* positions;  // [tokens, 3]: bins 0..levels-1 inside the window; the last axis holds r / base when radial
  const float *table_q, *table_k, *table_v;  // [heads, 3, length, padded], zeros beyond dim
  int64_t tokens, windows;
  int32_t heads, dim, padded, length, levels, radial, type, device;
  void* out;                                      // forward: [tokens, heads, dim] of `type`
  float* lse;                                     // log of the softmax denominators [tokens, heads]
  const void* grad_out;                           // [tokens, heads, dim] of `type`
  const float* delta;                             // sum(out * grad_out) [tokens, heads]
  void *grad_q, *grad_k, *grad_v;                 // [tokens, heads, dim] of `type`
  float *grad_table_q, *grad_table_k, *grad_table_v;
  // Table gradients: added atomically to [heads, 3, length, padded], or with `partial` stored by every tile of owned
  // tokens at its own place in [tiles of the launch, heads, 3, length, padded]
  int32_t partial;
  int32_t block_forward, block_query, block_key;  // tokens per tile, chosen by sptr_cuda_plan
  int64_t first_tile, tiles;                      // tiles of owned tokens of this launch
};

}  // namespace sptr_cuda
