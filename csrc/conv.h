// Sparse convolution as output-stationary implicit GEMM. One table of functions per instruction set.
#pragma once

#include <cstdint>

namespace lidistill {

// Rows of the output are cut into tiles of kTile; pairs of a tile are stored offset by offset.
constexpr int kTile = 512;

struct ConvArgs {
  const void* x;            // [n_in, cin], float or bfloat16
  const void* weight;       // [volume, cin, cout] row-major, same type; [volume, cout, cin] if transpose_weight
  const float* bias;        // [cout] or null
  const void* residual;     // [n_out, cout] of the same type, added before the rectifier; or null
  void* y;                  // [n_out, cout], same type
  const int64_t* ptr;       // [tiles * volume + 1]: pairs of (tile, offset)
  const int32_t* pair_in;   // input row of each pair
  const int32_t* pair_out;  // output row of each pair
  int64_t n_in, n_out;
  int32_t cin, cout, volume;
  int32_t mirror;            // pairs of offset k use weight volume-1-k
  int32_t transpose_weight;
  int32_t relu;              // y = max(y, 0) at the end
  int32_t threads;
};

struct WeightGradArgs {
  const void* x;            // [n_in, cin]
  const void* grad;         // [n_out, cout]
  float* out;               // [volume, cin, cout]
  const int64_t* ptr;       // [volume + 1]: pairs of each offset
  const int32_t* pair_in;
  const int32_t* pair_out;
  int32_t cin, cout, volume, threads;
};

struct GatherArgs {  // y[r] = sum_e weight[e] * x[index[e]] over the entries ptr[r]..ptr[r+1] of row r
  const void* x;  // [., channels], float or bfloat16
  void* y;        // [rows, channels], same type
  const int64_t* ptr;
  const int32_t* index;
  const float* weight;
  int64_t rows;
  int32_t channels, threads;
};

struct Kernels {
  const char* name;
  bool bf16_dot;  // bfloat16 runs on native dot products
  void (*conv_f32)(const ConvArgs&);
  void (*conv_bf16)(const ConvArgs&);  // null without bf16_dot
  void (*grad_f32)(const WeightGradArgs&);
  void (*grad_bf16)(const WeightGradArgs&);  // null without bf16_dot
  void (*gather_f32)(const GatherArgs&);
  void (*gather_bf16)(const GatherArgs&);  // sums in float
};

extern const Kernels kernels_generic;
#if defined(__x86_64__)
extern const Kernels kernels_avx2;
extern const Kernels kernels_avx512;
extern const Kernels kernels_avx512bf16;
#endif

}  // namespace lidistill
