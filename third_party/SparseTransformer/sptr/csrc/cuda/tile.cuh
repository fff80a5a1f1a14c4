// What the three kernels share.
//
// A thread owns one token of one head (a query, or in one kernel a key) and meets the other side's tokens one by one, in
// the order of the list, whatever the tiling: what a thread computes depends on the token's window alone, bit by bit.
// A relative index of a binned axis is a difference of two per-token bins. The products of a token with the rows of a
// table, once shifted by the token's own bin, are therefore addressed by the other token's bin alone. Only the radial
// axis needs an index per pair. A token thus needs `rows` numbers per table: levels for a binned axis, length for the
// radial one. Owned tokens keep them as [rows, block] (a thread reads its own column: no bank conflicts), tokens of the
// other side as [kTile, stride].
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include "attention.h"

#ifndef SPTR_DYNAMIC_SHARED
#define SPTR_DYNAMIC_SHARED(name) extern __shared__ __align__(16) float name[]
#endif

namespace sptr_cuda {

struct Shape {
  int levels, length, rows, stride;
  __host__ __device__ explicit Shape(const Attention& a)
      : levels(a.levels), length(a.length), rows(a.radial ? 2 * a.levels + a.length : 3 * a.levels), stride(rows | 1) {}
  __host__ __device__ int64_t table_size(int padded) const { return 3LL * length * padded; }
};

// --- shared memory: the same walk gives the pointers on the device and the size on the host -------------------------
struct Carver {
  float* base;
  size_t used = 0;  // floats
  __host__ __device__ explicit Carver(float* start) : base(start) {}
  __host__ __device__ float* take(size_t floats) {
    float* place = base ? base + used : nullptr;
    used += (floats + 3) / 4 * 4;
    return place;
  }
};

// Features of owned tokens, staged for the table gradients: rows of D + 4 floats keep 16-byte reads free of conflicts
__host__ __device__ inline size_t staged(const Shape& s, int block, int dim) {
  return static_cast<size_t>(block) * (s.rows > dim + 4 ? s.rows : dim + 4);
}

struct Tile {  // kTile tokens of the other side
  float *first, *second;  // features [kTile, D]
  int4* place;            // offsets of the token's bins in columns of owned tokens, and the bits of its radius
  int* bin;               // [3, kTile]
  __host__ __device__ Tile(Carver& c, int dim)
      : first(c.take(kTile * dim)), second(c.take(kTile * dim)), place(reinterpret_cast<int4*>(c.take(4 * kTile))),
        bin(reinterpret_cast<int*>(c.take(3 * kTile))) {}
};

// --- numbers --------------------------------------------------------------------------------------------------------
__device__ inline float element(const void* data, int type, int64_t at) {
  if (type == kFloat32) return static_cast<const float*>(data)[at];
  const unsigned short bits = static_cast<const unsigned short*>(data)[at];
  return type == kBfloat16 ? __bfloat162float(__ushort_as_bfloat16(bits)) : __half2float(__ushort_as_half(bits));
}

__device__ inline void set_element(void* data, int type, int64_t at, float value) {
  if (type == kFloat32)
    static_cast<float*>(data)[at] = value;
  else if (type == kBfloat16)
    static_cast<unsigned short*>(data)[at] = __bfloat16_as_ushort(__float2bfloat16_rn(value));
  else
    static_cast<unsigned short*>(data)[at] = __half_as_ushort(__float2half_rn(value));
}

// Four sums over every fourth channel; `y` is 16-byte aligned
template <int D>
__device__ inline float dot(const float (&x)[D], const float* y) {
  const float4* row = reinterpret_cast<const float4*>(y);
  float4 sum = {0.0f, 0.0f, 0.0f, 0.0f};
#pragma unroll
  for (int c = 0; c < D / 4; ++c) {
    const float4 v = row[c];
    sum.x += x[4 * c] * v.x;
    sum.y += x[4 * c + 1] * v.y;
    sum.z += x[4 * c + 2] * v.z;
    sum.w += x[4 * c + 3] * v.w;
  }
  return (sum.x + sum.y) + (sum.z + sum.w);
}

// x += weight * y
template <int D>
__device__ inline void add_scaled(float (&x)[D], float weight, const float* y) {
  const float4* row = reinterpret_cast<const float4*>(y);
#pragma unroll
  for (int c = 0; c < D / 4; ++c) {
    const float4 v = row[c];
    x[4 * c] += weight * v.x;
    x[4 * c + 1] += weight * v.y;
    x[4 * c + 2] += weight * v.z;
    x[4 * c + 3] += weight * v.w;
  }
}

// Exponential splitting of (query - key) radii in units of the base: bins of width 1, 1, 2, 2, 4, 4, ... outwards. With
// |difference| + 2 = 1.m * 2^e the bin is 2e - 2, plus one if the leading bit of m is set.
__device__ inline int radial_index(int levels, float query, float key) {
  const float difference = query - key;
  const int bin = (__float_as_int(fabsf(difference) + 2.0f) >> 22) - 256;
  const int index = (difference < 0.0f ? -bin - 1 : bin) + levels;
  return min(max(index, 0), 2 * levels - 1);
}

// --- tokens -----------------------------------------------------------------------------------------------------------
// Bins are clamped: nothing is validated on the device, and a wrong position must not address foreign memory
__device__ inline int bin_at(const Attention& a, int64_t token, int axis) {
  return static_cast<int>(fminf(fmaxf(a.positions[token * 3 + axis], 0.0f), static_cast<float>(a.levels - 1)));
}

// The token a thread owns; past the last one `id` is -1 and the window empty
struct Owned {
  int64_t id = -1, begin, end;
  int bin[3] = {0, 0, 0};
  float radius = 0.0f;
  __device__ Owned(const Attention& a, int64_t position) : begin(a.tokens), end(a.tokens) {
    if (position >= a.tokens) return;
    id = a.order[position];
    int64_t low = 0, high = a.windows;
    while (high - low > 1) {
      const int64_t middle = (low + high) / 2;
      (a.ptr[middle] <= position ? low : high) = middle;
    }
    begin = a.ptr[low];
    end = a.ptr[low + 1];
    for (int axis = 0; axis < 3; ++axis) bin[axis] = a.radial && axis == 2 ? 0 : bin_at(a, id, axis);
    if (a.radial) radius = a.positions[id * 3 + 2];
  }
};

// The type is looked at once, not per channel: the loops below are unrolled
template <int D, int kType>
__device__ inline void load_typed(const void* x, int dim, int64_t at, float (&row)[D]) {
#pragma unroll
  for (int c = 0; c < D; ++c)
    if (c < dim) row[c] = element(x, kType, at + c);
}

template <int D, int kType>
__device__ inline void store_typed(void* x, int dim, int64_t at, const float (&row)[D]) {
#pragma unroll
  for (int c = 0; c < D; ++c)
    if (c < dim) set_element(x, kType, at + c, row[c]);
}

template <int D>
__device__ inline void load_owned(const Attention& a, const void* x, const Owned& own, int head, float (&row)[D]) {
#pragma unroll
  for (int c = 0; c < D; ++c) row[c] = 0.0f;
  if (own.id < 0) return;
  const int64_t at = (own.id * a.heads + head) * a.dim;
  if (a.type == kFloat32)
    load_typed<D, kFloat32>(x, a.dim, at, row);
  else if (a.type == kBfloat16)
    load_typed<D, kBfloat16>(x, a.dim, at, row);
  else
    load_typed<D, kFloat16>(x, a.dim, at, row);
}

template <int D>
__device__ inline void store_owned(const Attention& a, void* x, const Owned& own, int head, const float (&row)[D]) {
  if (own.id < 0) return;
  const int64_t at = (own.id * a.heads + head) * a.dim;
  if (a.type == kFloat32)
    store_typed<D, kFloat32>(x, a.dim, at, row);
  else if (a.type == kBfloat16)
    store_typed<D, kBfloat16>(x, a.dim, at, row);
  else
    store_typed<D, kFloat16>(x, a.dim, at, row);
}

// Positions in `order` that a block, and one warp of it, have to meet. Every thread of the block calls it.
struct Span {
  int64_t begin, end, warp_begin, warp_end;
  __device__ explicit Span(const Owned& own) {
    __shared__ int64_t range[2];
    if (threadIdx.x == 0) range[0] = own.begin;
    if (threadIdx.x == blockDim.x - 1) range[1] = own.end;  // of the last window that begins in the block
    warp_begin = __shfl_sync(0xffffffffu, static_cast<long long>(own.begin), 0);
    warp_end = __shfl_sync(0xffffffffu, static_cast<long long>(own.end), 31);
    __syncthreads();
    begin = range[0];
    end = range[1];
  }
};

__device__ inline int clip(int64_t offset) {
  return static_cast<int>(offset < 0 ? 0 : offset < kTile ? offset : kTile);
}

// Fills a tile with the tokens at order[begin ...), zeros beyond `end`
template <int D>
__device__ inline void load_tile(const Attention& a, const void* first, const void* second, int head, int64_t begin,
                                 int64_t end, const Tile& tile) {
  const int block = blockDim.x;
  for (int i = threadIdx.x; i < kTile * D; i += block) {
    const int c = i % D;
    const int64_t position = begin + i / D;
    const bool real = position < end && c < a.dim;
    const int64_t at = real ? (a.order[position] * a.heads + head) * a.dim + c : 0;
    tile.first[i] = real ? element(first, a.type, at) : 0.0f;
    tile.second[i] = real ? element(second, a.type, at) : 0.0f;
  }
  if (threadIdx.x >= kTile) return;
  const int t = threadIdx.x;
  const bool real = begin + t < end;
  const int64_t id = real ? a.order[begin + t] : 0;
  int bin[3] = {0, 0, 0};
  for (int axis = 0; axis < 3; ++axis) {
    if (real && !(a.radial && axis == 2)) bin[axis] = bin_at(a, id, axis);
    tile.bin[axis * kTile + t] = bin[axis];
  }
  const float radius = real && a.radial ? a.positions[id * 3 + 2] : 0.0f;
  tile.place[t] = make_int4(bin[0] * block, (a.levels + bin[1]) * block, (2 * a.levels + bin[2]) * block,
                            __float_as_int(radius));
}

// --- look-ups by relative index -------------------------------------------------------------------------------------
// Row of a token's look-ups for row `r` of the table, or -1. kSign +1: the token is the query (relative index = own bin
// - other bin + levels - 1), -1: the key.
template <bool kRadial, int kSign>
__device__ inline int lookup_row(const Shape& s, int axis, int r, int bin) {
  if (kRadial && axis == 2) return 2 * s.levels + r;
  const int other = kSign > 0 ? bin + s.levels - 1 - r : bin - s.levels + 1 + r;
  return other >= 0 && other < s.levels ? axis * s.levels + other : -1;
}

// out[row * row_step] = x . T[row] for every `step`-th row of the table [3, length, D], beginning with `begin`
template <int D, bool kRadial, int kSign>
__device__ inline void build_lookup(const Shape& s, const float (&x)[D], const float* table, int bin0, int bin1, int bin2,
                                    int begin, int step, float* out, int row_step) {
  for (int entry = begin; entry < 3 * s.length; entry += step) {
    const int axis = entry / s.length;
    const int row = lookup_row<kRadial, kSign>(s, axis, entry - axis * s.length, axis == 0 ? bin0 : axis == 1 ? bin1 : bin2);
    const float product = dot(x, table + static_cast<int64_t>(entry) * D);
    if (row >= 0) out[static_cast<int64_t>(row) * row_step] = product;
  }
}

// Look-ups of the tile's tokens with features `rows`: a lane per token, a warp per row of the table
template <int D, bool kRadial, int kSign>
__device__ inline void build_tile(const Shape& s, const Tile& tile, const float* rows, const float* table, float* out) {
  const int lane = threadIdx.x % kTile;
  float x[D];
  const float4* source = reinterpret_cast<const float4*>(rows + lane * D);
#pragma unroll
  for (int c = 0; c < D / 4; ++c) {
    const float4 v = source[c];
    x[4 * c] = v.x;
    x[4 * c + 1] = v.y;
    x[4 * c + 2] = v.z;
    x[4 * c + 3] = v.w;
  }
  build_lookup<D, kRadial, kSign>(s, x, table, tile.bin[lane], tile.bin[kTile + lane], tile.bin[2 * kTile + lane],
                                  threadIdx.x / kTile, blockDim.x / kTile, out + lane * s.stride, 1);
}

// Where the look-ups of one pair are: in the owned token's column, and in the other token's row
struct Pair {
  int column[3], row[3];
  template <bool kRadial, int kSign>
  __device__ static Pair find(const Shape& s, const Owned& own, const int4& place) {
    Pair p = {{place.x, place.y, place.z}, {own.bin[0], s.levels + own.bin[1], 2 * s.levels + own.bin[2]}};
    if (kRadial) {
      const float radius = __int_as_float(place.w);
      const int index = kSign > 0 ? radial_index(s.levels, own.radius, radius) : radial_index(s.levels, radius, own.radius);
      p.row[2] = 2 * s.levels + index;
      p.column[2] = p.row[2] * static_cast<int>(blockDim.x);
    }
    return p;
  }
};

__device__ inline float sum_at(const float* base, const int (&at)[3]) { return base[at[0]] + base[at[1]] + base[at[2]]; }

__device__ inline void add_at(float* base, const int (&at)[3], float value) {
#pragma unroll
  for (int axis = 0; axis < 3; ++axis) base[at[axis]] += value;
}

// x += sum over the rows of the table of histogram[row] * T[row], for the thread's own column of the histogram
template <int D, bool kRadial, int kSign>
__device__ inline void add_table(const Shape& s, float (&x)[D], const float* column, const Owned& own, const float* table) {
  for (int entry = 0; entry < 3 * s.length; ++entry) {
    const int axis = entry / s.length;
    const int bin = axis == 0 ? own.bin[0] : axis == 1 ? own.bin[1] : own.bin[2];
    const int row = lookup_row<kRadial, kSign>(s, axis, entry - axis * s.length, bin);
    if (row >= 0) add_scaled(x, column[row * static_cast<int>(blockDim.x)], table + static_cast<int64_t>(entry) * D);
  }
}

// --- table gradients ------------------------------------------------------------------------------------------------
template <int D>
__device__ inline void stage(const float (&x)[D], float* rows) {
  float4* target = reinterpret_cast<float4*>(rows + threadIdx.x * (D + 4));
#pragma unroll
  for (int c = 0; c < D / 4; ++c) target[c] = make_float4(x[4 * c], x[4 * c + 1], x[4 * c + 2], x[4 * c + 3]);
}

// out[row of the table] (+)= sum over owned tokens of histogram[row][token] * features[token]; `bin` is [3, block]
template <int D, bool kRadial, int kSign>
__device__ inline void table_gradient(const Shape& s, const float* histogram, const float* rows, const int* bin,
                                      float* out, bool partial) {
  constexpr int kRun = 8;
  const int block = blockDim.x;
  for (int item = threadIdx.x; item < 3 * s.length * (D / kRun); item += block) {
    const int entry = item / (D / kRun), c = item % (D / kRun) * kRun;
    const int axis = entry / s.length, r = entry - axis * s.length;
    float sum[kRun] = {};
    for (int i = 0; i < block; ++i) {
      const int t = (i + entry) & (block - 1);  // threads of other entries begin elsewhere, in other banks
      const int row = lookup_row<kRadial, kSign>(s, axis, r, bin[axis * block + t]);
      if (row < 0) continue;
      const float weight = histogram[row * block + t];
      const float4* x = reinterpret_cast<const float4*>(rows + t * (D + 4) + c);
      const float4 low = x[0], high = x[1];
      sum[0] += weight * low.x;
      sum[1] += weight * low.y;
      sum[2] += weight * low.z;
      sum[3] += weight * low.w;
      sum[4] += weight * high.x;
      sum[5] += weight * high.y;
      sum[6] += weight * high.z;
      sum[7] += weight * high.w;
    }
    float* target = out + static_cast<int64_t>(entry) * D + c;
#pragma unroll
    for (int i = 0; i < kRun; ++i) {
      if (partial)
        target[i] = sum[i];
      else
        atomicAdd(target + i, sum[i]);
    }
  }
}

// --- launches -------------------------------------------------------------------------------------------------------
// Calls launch<D, kRadial>(a, ...) for the padded head dimension of `a`
#define SPTR_DISPATCH(launch, a, ...)                                                                       \
  ((a).padded == 16   ? ((a).radial ? launch<16, true>(a, __VA_ARGS__) : launch<16, false>(a, __VA_ARGS__)) \
   : (a).padded == 32 ? ((a).radial ? launch<32, true>(a, __VA_ARGS__) : launch<32, false>(a, __VA_ARGS__)) \
   : (a).padded == 64 ? ((a).radial ? launch<64, true>(a, __VA_ARGS__) : launch<64, false>(a, __VA_ARGS__)) \
                      : cudaErrorInvalidValue)

// This library's copy of the runtime keeps its own idea of the present device
inline cudaError_t use_device(const Attention& a) {
  const cudaError_t error = cudaSetDevice(a.device);
  if (error != cudaSuccess) cudaGetLastError();  // reported here, so that nobody else trips over it
  return error;
}

inline cudaError_t launch_tiles(void (*kernel)(Attention), Attention a, int block, size_t floats, cudaStream_t stream) {
  const int64_t blocks = a.tiles * a.heads;
  if (blocks <= 0) return cudaSuccess;
  if (blocks > INT32_MAX || block < kTile || block > kMaxBlock || (block & (block - 1))) return cudaErrorInvalidValue;
  const int bytes = static_cast<int>(floats * sizeof(float));
  cudaError_t error = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
  if (error == cudaSuccess) {
    void* arguments[] = {&a};
    error = cudaLaunchKernel(kernel, dim3(static_cast<unsigned>(blocks)), dim3(block), arguments, bytes, stream);
  }
  const cudaError_t last = cudaGetLastError();
  return error == cudaSuccess ? last : error;
}

}  // namespace sptr_cuda
