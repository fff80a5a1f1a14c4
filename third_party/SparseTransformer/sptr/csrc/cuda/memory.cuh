// Shared memory of the three kernels.
#pragma once

#include "tile.cuh"

namespace sptr_cuda {

struct ForwardMemory {
  float *own, *histogram;  // [rows, block]: products with the query table; softmax weight per row of the value table
  Tile keys;
  float* lookup;  // [kTile, stride]: products with the key table
  size_t floats;
  __host__ __device__ ForwardMemory(Carver c, const Shape& s, int block, int dim)
      : own(c.take(static_cast<size_t>(s.rows) * block)), histogram(c.take(static_cast<size_t>(s.rows) * block)),
        keys(c, dim), lookup(c.take(kTile * s.stride)), floats(c.used) {}
};

struct QueryMemory {
  float *own_q, *own_v;           // [rows, block]: products with the query and value tables; at last, staged features
  float *logits, *weights;        // [rows, block]: gradient of the logits and softmax weight per row
  Tile keys;
  float* lookup;                  // [kTile, stride]: products with the key table
  int* bin;                       // [3, block]
  size_t floats;
  __host__ __device__ QueryMemory(Carver c, const Shape& s, int block, int dim)
      : own_q(c.take(staged(s, block, dim))), own_v(c.take(staged(s, block, dim))),
        logits(c.take(static_cast<size_t>(s.rows) * block)), weights(c.take(static_cast<size_t>(s.rows) * block)),
        keys(c, dim), lookup(c.take(kTile * s.stride)), bin(reinterpret_cast<int*>(c.take(3 * block))), floats(c.used) {}
};

struct KeyMemory {
  float* own;                    // [rows, block]: products with the key table; at last, staged features
  float* logits;                 // [rows, block]: gradient of the logits per row
  Tile queries;
  float *lookup_q, *lookup_v;    // [kTile, stride]: products with the query and value tables
  float *lse, *delta;            // [kTile]
  int* bin;                      // [3, block]
  size_t floats;
  __host__ __device__ KeyMemory(Carver c, const Shape& s, int block, int dim)
      : own(c.take(staged(s, block, dim))), logits(c.take(static_cast<size_t>(s.rows) * block)), queries(c, dim),
        lookup_q(c.take(kTile * s.stride)), lookup_v(c.take(kTile * s.stride)), lse(c.take(kTile)), delta(c.take(kTile)),
        bin(reinterpret_cast<int*>(c.take(3 * block))), floats(c.used) {}
};

// Pairs worked on together: their products are independent chains of additions. Divides kTile.
template <int D>
constexpr int kGroupOf = D <= 16 ? 4 : D <= 32 ? 2 : 1;

}  // namespace sptr_cuda
