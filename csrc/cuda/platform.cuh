// What the kernels ask of the GPU beyond plain C++: tensor-core products, asynchronous copies, launches. Everything else
// in this folder is also valid for a host compiler, which is how the tests run it without a GPU.
#pragma once

#include <cstdint>

namespace lidistill {
struct f16 {
  uint16_t bits;
};
struct bf16 {
  uint16_t bits;
};
}  // namespace lidistill

#ifndef __CUDACC__
#include "cuda_emulation.h"
#else

#include <cuda_runtime.h>  // not cuda_fp16.h: it needs a package more, and seconds in every unit

#define LD_DYNAMIC_SHARED(name) extern __shared__ __align__(16) char name[]

namespace lidistill {

template <class Kernel, class... Arguments>
inline cudaError_t launch(Kernel kernel, dim3 grid, int threads, int shared, void* stream, Arguments... arguments) {
  if (shared > 48 * 1024) {
    const cudaError_t error = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shared);
    if (error != cudaSuccess) return error;
  }
  kernel<<<grid, threads, shared, static_cast<cudaStream_t>(stream)>>>(arguments...);
  return cudaGetLastError();
}

// With fewer blocks than this, smaller tiles keep more of the GPU busy.
inline int few_blocks() { return 256; }

__device__ inline float to_float(float v) { return v; }
__device__ inline float to_float(f16 v) {
  float f;
  asm("cvt.f32.f16 %0, %1;\n" : "=f"(f) : "h"(v.bits));
  return f;
}
__device__ inline float to_float(bf16 v) { return __uint_as_float(static_cast<uint32_t>(v.bits) << 16); }
__device__ inline void from_float(float v, float& out) { out = v; }
__device__ inline void from_float(float v, f16& out) { asm("cvt.rn.f16.f32 %0, %1;\n" : "=h"(out.bits) : "f"(v)); }
__device__ inline void from_float(float v, bf16& out) { asm("cvt.rn.bf16.f32 %0, %1;\n" : "=h"(out.bits) : "f"(v)); }

// 16 bytes from global to shared memory, or 16 zero bytes; both addresses are multiples of 16.
__device__ inline void copy_async(void* shared, const void* global, bool valid) {
  const uint32_t target = static_cast<uint32_t>(__cvta_generic_to_shared(shared));
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;\n" ::"r"(target), "l"(global), "r"(valid ? 16 : 0)
               : "memory");
}
__device__ inline void copy_commit() { asm volatile("cp.async.commit_group;\n" ::: "memory"); }
// Waits until at most kPending of this thread's latest groups are under way.
template <int kPending>
__device__ inline void copy_wait() {
  asm volatile("cp.async.wait_group %0;\n" ::"n"(kPending) : "memory");
}

// Four 8x8 matrices of 16-bit elements. Lanes 8i..8i+7 name the rows of matrix i; lane L receives in r[i] the elements
// (L/4, 2(L%4)) and (L/4, 2(L%4)+1) of matrix i, or with `transposed` the elements (2(L%4), L/4) and (2(L%4)+1, L/4).
template <bool transposed>
__device__ inline void load_matrices(uint32_t (&r)[4], const void* row) {
  const uint32_t source = static_cast<uint32_t>(__cvta_generic_to_shared(row));
  if (transposed)
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];\n"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(source) : "memory");
  else
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];\n"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(source) : "memory");
}

// c += a b on 16x16 and 16x8 tiles. With g = lane / 4, t = lane % 4 a lane holds
//   a: rows g, g+8 (registers 0 and 1; 2 and 3) at columns 2t, 2t+1 (0, 1) and 2t+8, 2t+9 (2, 3),
//   b: column g at rows 2t, 2t+1 (register 0) and 2t+8, 2t+9 (1),
//   c: rows g (0, 1) and g+8 (2, 3) at columns 2t, 2t+1.
__device__ inline void multiply_tile(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1, f16) {
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
               "{%0, %1, %2, %3};\n"
               : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
__device__ inline void multiply_tile(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1, bf16) {
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
               "{%0, %1, %2, %3};\n"
               : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
__device__ inline uint32_t to_tf32(float v) {
  uint32_t bits;
  asm("cvt.rna.tf32.f32 %0, %1;\n" : "=r"(bits) : "f"(v));
  return bits;
}
// The same with 16x8 and 8x8 tiles of tf32: a: rows g (0), g+8 (1) at column t, and (2, 3) at column t+4;
// b: column g at rows t (0) and t+4 (1).
__device__ inline void multiply_tile_tf32(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
               "{%0, %1, %2, %3};\n"
               : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

}  // namespace lidistill
#endif
