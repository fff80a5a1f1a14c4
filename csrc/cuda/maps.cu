// Kernel maps on the GPU. Keys are sorted, so neighbouring threads search neighbouring places; every entry has one writer.

#include "platform.cuh"

namespace lidistill {
namespace {

constexpr int kThreads = 256, kOffsets = 64;  // offsets per launch: they travel as a kernel argument

struct Deltas {
  int64_t value[kOffsets];
};

dim3 grid_of(int64_t n, int rows) { return dim3(static_cast<unsigned>((n + kThreads - 1) / kThreads), rows); }
__device__ inline int64_t element() { return static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; }

struct NeighbourArguments {
  const int64_t* in_keys;
  const int32_t* in_order;
  int64_t n_in;
  const int64_t* out_keys;
  const int32_t* out_order;
  int64_t n_out;
  int32_t first, volume, symmetric;  // blockIdx.y = 0 is offset `first`
  int32_t* table;
};

__global__ void neighbours_kernel(NeighbourArguments p, Deltas deltas) {
  const int64_t at = element();
  if (at >= p.n_out) return;
  const int64_t wanted = p.out_keys[at] + deltas.value[blockIdx.y];
  int64_t low = 0, high = p.n_in;  // the first key that is not smaller
  while (low < high) {
    const int64_t middle = (low + high) / 2;
    if (p.in_keys[middle] < wanted)
      low = middle + 1;
    else
      high = middle;
  }
  if (low == p.n_in || p.in_keys[low] != wanted) return;
  const int32_t from = p.in_order[low], to = p.out_order[at];
  const int64_t k = p.first + static_cast<int>(blockIdx.y);
  p.table[k * p.n_out + to] = from;
  if (p.symmetric) p.table[(p.volume - 1 - k) * p.n_out + from] = to;  // for the middle offset the same again
}

__global__ void transpose_kernel(const int32_t* table, int64_t n_out, int64_t n_in, int32_t* transposed) {
  const int64_t at = element(), k = blockIdx.y;
  if (at >= n_out) return;
  const int32_t from = table[k * n_out + at];
  if (from >= 0) transposed[k * n_in + from] = static_cast<int32_t>(at);
}

__global__ void masks_kernel(const int32_t* table, int volume, int64_t n_out, int64_t* masks) {
  const int64_t at = element();
  if (at >= n_out) return;
  int64_t mask = 0;
  for (int k = 0; k < volume; ++k)
    if (table[k * n_out + at] >= 0) mask |= int64_t(1) << (volume <= 62 ? k : static_cast<int64_t>(k) * 62 / volume);
  masks[at] = mask;
}

__global__ void pairs_kernel(const int32_t* table, const int64_t* position, int64_t n_out, int32_t* rows_in,
                             int32_t* rows_out) {
  const int64_t at = element(), row = blockIdx.y * n_out;
  if (at >= n_out || table[row + at] < 0) return;
  const int64_t before = row ? position[row - 1] : 0, to = row + position[row + at] - before - 1;
  rows_in[to] = table[row + at];
  rows_out[to] = static_cast<int32_t>(at);
}

}  // namespace
}  // namespace lidistill

using namespace lidistill;

extern "C" {

// table: int32 [volume, n_out], see lidistill_neighbours of the CPU. delta is in host memory.
int lidistill_cuda_neighbours(const int64_t* in_keys, const int32_t* in_order, int64_t n_in, const int64_t* out_keys,
                              const int32_t* out_order, int64_t n_out, const int64_t* delta, int volume, int symmetric,
                              int32_t* table, void* stream) {
  if (n_out == 0) return cudaSuccess;
  cudaError_t error = cudaMemsetAsync(table, 0xff, sizeof(int32_t) * volume * n_out, static_cast<cudaStream_t>(stream));
  const int searched = symmetric ? (volume + 1) / 2 : volume;
  for (int first = 0; first < searched && error == cudaSuccess; first += kOffsets) {
    const int count = searched - first < kOffsets ? searched - first : kOffsets;
    Deltas deltas = {};
    for (int k = 0; k < count; ++k) deltas.value[k] = delta[first + k];
    const NeighbourArguments p = {in_keys, in_order, n_in, out_keys, out_order, n_out, first, volume, symmetric, table};
    error = launch(neighbours_kernel, grid_of(n_out, count), kThreads, 0, stream, p, deltas);
  }
  return error;
}

// transposed: int32 [volume, n_in]: the output row that reads this input row through offset k, or -1.
int lidistill_cuda_transpose(const int32_t* table, int volume, int64_t n_out, int64_t n_in, int32_t* transposed,
                             void* stream) {
  if (n_in == 0) return cudaSuccess;
  const cudaError_t error =
      cudaMemsetAsync(transposed, 0xff, sizeof(int32_t) * volume * n_in, static_cast<cudaStream_t>(stream));
  if (error != cudaSuccess || n_out == 0) return error;
  return launch(transpose_kernel, grid_of(n_out, volume), kThreads, 0, stream, table, n_out, n_in, transposed);
}

// masks: int64 [n_out], bit k set where offset k exists; with more than 62 offsets neighbouring ones share a bit.
int lidistill_cuda_masks(const int32_t* table, int volume, int64_t n_out, int64_t* masks, void* stream) {
  if (n_out == 0) return cudaSuccess;
  return launch(masks_kernel, grid_of(n_out, 1), kThreads, 0, stream, table, volume, n_out, masks);
}

// The pairs of each offset, in front of rows_in and rows_out, int32 [volume, n_out]; the rest is left as it is.
// position: int64 [volume, n_out], how many entries of the whole table exist up to and with this one.
int lidistill_cuda_pairs(const int32_t* table, const int64_t* position, int volume, int64_t n_out, int32_t* rows_in,
                         int32_t* rows_out, void* stream) {
  if (n_out == 0) return cudaSuccess;
  return launch(pairs_kernel, grid_of(n_out, volume), kThreads, 0, stream, table, position, n_out, rows_in, rows_out);
}

}  // extern "C"
