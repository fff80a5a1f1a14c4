// The C interface: raw pointers and sizes, no torch. Picks the best instruction set once, at the first call.

#include <cstring>

#include "attention.h"

namespace {

using sptr::Kernels;

const Kernels* best() {
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
      __builtin_cpu_supports("avx512bw"))
    return &sptr::kernels_avx512;
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return &sptr::kernels_avx2;
#endif
  return &sptr::kernels_generic;
}

const Kernels*& current() {
  static const Kernels* chosen = best();
  return chosen;
}

}  // namespace

extern "C" {

const char* sptr_isa() { return current()->name; }

// For tests and benchmarks: run a lesser instruction set. Returns 0 when this machine does not have it.
int sptr_set_isa(const char* name) {
  const Kernels* wanted = nullptr;
  if (!std::strcmp(name, "best")) wanted = best();
  if (!std::strcmp(name, "generic")) wanted = &sptr::kernels_generic;
#if defined(__x86_64__)
  if (!std::strcmp(name, "avx512") && best() == &sptr::kernels_avx512) wanted = &sptr::kernels_avx512;
  if (!std::strcmp(name, "avx2") && best() != &sptr::kernels_generic) wanted = &sptr::kernels_avx2;
#endif
  if (wanted) current() = wanted;
  return wanted != nullptr;
}

int64_t sptr_args_size() { return sizeof(sptr::AttentionArgs); }
void sptr_forward(const sptr::AttentionArgs* args) { current()->forward(*args); }
void sptr_backward(const sptr::AttentionArgs* args) { current()->backward(*args); }

}  // extern "C"
