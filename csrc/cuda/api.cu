// The C interface of the GPU's convolutions: raw pointers, sizes and a stream, no torch. Results are CUDA error codes.

#include "weight_grad.cuh"

namespace lidistill {
namespace {

enum Type { kFp32, kTf32, kF16, kBf16 };

constexpr int kSumThreads = 256;

// out[k][e] = the partial results of offset k's chunks, added in order
__global__ void sum_partials_kernel(const float* partial, const int32_t* count, int64_t chunk, int volume, int64_t size,
                                    float* out) {
  const int64_t at = static_cast<int64_t>(blockIdx.x) * kSumThreads + threadIdx.x;
  if (at >= size) return;
  const int64_t k = blockIdx.y, chunks = (count[k] + chunk - 1) / chunk;
  float sum = 0;
  for (int64_t s = 0; s < chunks; ++s) sum += partial[(s * volume + k) * size + at];
  out[k * size + at] = sum;
}

}  // namespace
}  // namespace lidistill

using namespace lidistill;

extern "C" {

const char* lidistill_cuda_error(int code) { return cudaGetErrorString(static_cast<cudaError_t>(code)); }

// Makes this the GPU of the calling thread for the functions of this library.
int lidistill_cuda_use(int device) { return cudaSetDevice(device); }

// y[rows[i]] = bias + residual[rows[i]] + sum_k x[table[k][i]] weight[k], see ConvArguments. type: 0 fp32, 1 tf32, 2 fp16, 3 bf16.
int lidistill_cuda_conv(int type, const void* x, const void* weight, const float* bias, const void* residual, void* y,
                        const int32_t* rows, const int32_t* table, const uint8_t* present, int64_t n_out, int cin,
                        int ld_weight, int cout, int volume, int relu, void* stream) {
  if (n_out == 0) return cudaSuccess;
  const ConvArguments p = {x,       weight, bias, residual,  y,    rows,   table,
                           present, n_out,  cin,  ld_weight, cout, volume, relu};
  switch (type) {
    case kFp32: return conv(Fp32(), p, stream);
    case kTf32: return conv(Tf32(), p, stream);
    case kF16: return conv(f16(), p, stream);
    case kBf16: return conv(bf16(), p, stream);
  }
  return cudaErrorInvalidValue;
}

// out[k] = sum over the pairs of offset k of outer(x[in], grad[out]), fp32 [volume, cin, cout], see GradArguments.
int lidistill_cuda_weight_grad(int type, const void* x, const void* grad, float* partial, float* out,
                               const int32_t* rows_in, const int32_t* rows_out, const int32_t* count, int64_t stride,
                               int64_t chunk, int splits, int ld_x, int ld_grad, int cin, int cout, int volume,
                               void* stream) {
  const GradArguments p = {x,      grad,  partial, rows_in, rows_out, count, stride,
                           chunk, ld_x,  ld_grad, cin,     cout,     volume};
  cudaError_t error = cudaErrorInvalidValue;
  switch (type) {
    case kFp32: error = weight_grad(Fp32(), p, splits, stream); break;
    case kTf32: error = weight_grad(Tf32(), p, splits, stream); break;
    case kF16: error = weight_grad(f16(), p, splits, stream); break;
    case kBf16: error = weight_grad(bf16(), p, splits, stream); break;
  }
  if (error != cudaSuccess) return error;
  const int64_t size = static_cast<int64_t>(cin) * cout;
  const dim3 grid(static_cast<unsigned>((size + kSumThreads - 1) / kSumThreads), volume);
  return launch(sum_partials_kernel, grid, kSumThreads, 0, stream, p.partial, count, chunk, volume, size, out);
}

}  // extern "C"
