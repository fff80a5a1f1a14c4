// Window attention with contextual relative position, forward and backward, one table of functions per instruction set.
#pragma once

#include <cstdint>

namespace sptr {

constexpr int kMaxDim = 64;

enum class Storage : int32_t { kFloat = 0, kBfloat16 = 1, kHalf = 2 };

struct AttentionArgs {
  // Tokens, [tokens, heads, dim] in the type of `storage`; `order` lists them window by window, `ptr` [windows + 1] cuts that list.
  const void *q, *k, *v;
  const int64_t *order, *ptr;
  int64_t windows;
  // [tokens, 3]: bins 0..levels-1 inside the window; the last axis holds r / base when radial
  const float* positions;
  // Tables [heads, 3, length, padded]: dim padded with zeros to a multiple of 16
  const float *table_q, *table_k, *table_v;
  int32_t heads, dim, padded, length, levels, radial, threads;
  Storage storage;
  // Forward writes, in the type of `storage`
  void* out;
  // Forward writes, backward reads: log of the softmax denominator, [tokens, heads]
  float* lse;
  // Backward: gradient of out in the type of `storage`, delta = sum(out * grad_out) [tokens, heads]
  const void* grad_out;
  const float* delta;
  // Results: in the type of `storage`, every row is written; float tables, zero-initialised
  void *grad_q, *grad_k, *grad_v;
  float *grad_table_q, *grad_table_k, *grad_table_v;
};

struct Kernels {
  const char* name;
  void (*forward)(const AttentionArgs&);
  void (*backward)(const AttentionArgs&);
};

extern const Kernels kernels_generic;
#if defined(__x86_64__)
extern const Kernels kernels_avx2;
extern const Kernels kernels_avx512;
#endif

}  // namespace sptr
