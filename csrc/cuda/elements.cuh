// Products of two tiles in shared memory by one warp, per element type. The accumulators have one layout for all types:
// acc[i][j][2h + w] is row 16 i + 8 h + lane / 4, column 8 j + 2 (lane % 4) + w of the warp's tile.
#pragma once

#include "platform.cuh"

namespace lidistill {

template <int kM, int kN>
using Accumulator = float[kM / 16][kN / 8][4];

// A is [m][k] in memory, or [k][m] if kAcross; B is [k][n]. kDepth: extent of k in shared memory.
template <class Type>
struct Half {
  typedef Type T;
  static constexpr int kVector = 8, kDepth = 32, kPadA = 8, kPadB = 8;  // padding: 8 rows of 16 bytes hit all 32 banks

  template <int kM, int kN, bool kAcross>
  __device__ static void multiply(Accumulator<kM, kN>& acc, const T* a, int lda, const T* b, int ldb, int lane) {
#pragma unroll
    for (int k = 0; k < kDepth; k += 16) {
      uint32_t left[kM / 16][4];
#pragma unroll
      for (int i = 0; i < kM / 16; ++i) {
        if (kAcross)
          load_matrices<true>(left[i], a + (k + lane % 8 + lane / 16 * 8) * lda + i * 16 + lane / 8 % 2 * 8);
        else
          load_matrices<false>(left[i], a + (i * 16 + lane % 16) * lda + k + lane / 16 * 8);
      }
#pragma unroll
      for (int j = 0; j < kN / 8; j += 2) {
        uint32_t right[4];
        load_matrices<true>(right, b + (k + lane % 16) * ldb + j * 8 + lane / 16 * 8);
#pragma unroll
        for (int i = 0; i < kM / 16; ++i) {
          multiply_tile(acc[i][j], left[i], right[0], right[1], T());
          multiply_tile(acc[i][j + 1], left[i], right[2], right[3], T());
        }
      }
    }
  }
};

struct Single {
  typedef float T;
  static constexpr int kVector = 4, kDepth = 16, kPadA = 4, kPadB = 8;
};

// fp32 on the tensor cores, operands rounded to 10 bits of mantissa: only where the user allows TF32.
struct Tf32 : Single {
  template <int kM, int kN, bool kAcross>
  __device__ static void multiply(Accumulator<kM, kN>& acc, const T* a, int lda, const T* b, int ldb, int lane) {
    const int g = lane / 4, t = lane % 4;
#pragma unroll
    for (int k = 0; k < kDepth; k += 8) {
      uint32_t left[kM / 16][4];
#pragma unroll
      for (int i = 0; i < kM / 16; ++i)
#pragma unroll
        for (int q = 0; q < 4; ++q) {
          const int m = i * 16 + g + q % 2 * 8, at = k + t + q / 2 * 4;
          left[i][q] = to_tf32(kAcross ? a[at * lda + m] : a[m * lda + at]);
        }
#pragma unroll
      for (int j = 0; j < kN / 8; ++j) {
        const uint32_t b0 = to_tf32(b[(k + t) * ldb + j * 8 + g]), b1 = to_tf32(b[(k + t + 4) * ldb + j * 8 + g]);
#pragma unroll
        for (int i = 0; i < kM / 16; ++i) multiply_tile_tf32(acc[i][j], left[i], b0, b1);
      }
    }
  }
};

struct Fp32 : Single {
  template <int kM, int kN, bool kAcross>
  __device__ static void multiply(Accumulator<kM, kN>& acc, const T* a, int lda, const T* b, int ldb, int lane) {
    const int g = lane / 4, t = lane % 4;
#pragma unroll 4
    for (int k = 0; k < kDepth; ++k) {
      float left[kM / 8];
#pragma unroll
      for (int i = 0; i < kM / 8; ++i) left[i] = kAcross ? a[k * lda + i * 8 + g] : a[(i * 8 + g) * lda + k];
#pragma unroll
      for (int j = 0; j < kN / 8; ++j) {
        const float b0 = b[k * ldb + j * 8 + 2 * t], b1 = b[k * ldb + j * 8 + 2 * t + 1];
#pragma unroll
        for (int i = 0; i < kM / 8; ++i) {
          acc[i / 2][j][i % 2 * 2] += left[i] * b0;
          acc[i / 2][j][i % 2 * 2 + 1] += left[i] * b1;
        }
      }
    }
  }
};

}  // namespace lidistill
