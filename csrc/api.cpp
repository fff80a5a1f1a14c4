// The C interface: raw pointers and sizes, no torch. Picks the best instruction set once, at the first call.

#include <cstdlib>
#include <cstring>

#include "conv.h"

namespace {

using lidistill::Kernels;

const Kernels* best() {
#if defined(__x86_64__)
  __builtin_cpu_init();
  const bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
  if (avx512 && __builtin_cpu_supports("avx512bf16")) return &lidistill::kernels_avx512bf16;
  if (avx512) return &lidistill::kernels_avx512;
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return &lidistill::kernels_avx2;
#endif
  return &lidistill::kernels_generic;
}

const Kernels* current = nullptr;

const Kernels& kernels() {
  if (!current) current = best();
  return *current;
}

}  // namespace

extern "C" {

const char* lidistill_isa() { return kernels().name; }
int lidistill_has_bf16() { return kernels().bf16_dot; }

// For tests and benchmarks: run a lesser instruction set. Returns 0 when this machine does not have it.
int lidistill_set_isa(const char* name) {
  const Kernels* wanted = nullptr;
  if (!std::strcmp(name, "best")) wanted = best();
  if (!std::strcmp(name, "generic")) wanted = &lidistill::kernels_generic;
#if defined(__x86_64__)
  const bool avx512 = std::strncmp(best()->name, "avx512", 6) == 0;
  if (!std::strcmp(name, "avx2") && (avx512 || best() == &lidistill::kernels_avx2)) wanted = &lidistill::kernels_avx2;
  if (!std::strcmp(name, "avx512") && avx512) wanted = &lidistill::kernels_avx512;
  if (!std::strcmp(name, "avx512bf16") && best()->bf16_dot) wanted = &lidistill::kernels_avx512bf16;
#endif
  if (wanted) current = wanted;
  return wanted != nullptr;
}

void lidistill_conv(int bf16, const void* x, const void* weight, const float* bias, const void* residual, void* y,
                    const int64_t* ptr, const int32_t* pair_in, const int32_t* pair_out, int64_t n_in, int64_t n_out,
                    int cin, int cout, int volume, int mirror, int transpose_weight, int relu, int threads) {
  const lidistill::ConvArgs args = {x,     weight, bias, residual, y,      ptr,    pair_in,          pair_out, n_in,
                                    n_out, cin,    cout, volume,   mirror, transpose_weight, relu,   threads};
  (bf16 ? kernels().conv_bf16 : kernels().conv_f32)(args);
}

void lidistill_weight_grad(int bf16, const void* x, const void* grad, float* out, const int64_t* ptr,
                           const int32_t* pair_in, const int32_t* pair_out, int cin, int cout, int volume, int threads) {
  const lidistill::WeightGradArgs args = {x, grad, out, ptr, pair_in, pair_out, cin, cout, volume, threads};
  (bf16 ? kernels().grad_bf16 : kernels().grad_f32)(args);
}

void lidistill_gather(int bf16, const void* x, void* y, const int64_t* ptr, const int32_t* index, const float* weight,
                      int64_t rows, int channels, int threads) {
  (bf16 ? kernels().gather_bf16 : kernels().gather_f32)({x, y, ptr, index, weight, rows, channels, threads});
}

}  // extern "C"
