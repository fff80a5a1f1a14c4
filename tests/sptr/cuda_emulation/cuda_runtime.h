// Just enough CUDA on a host compiler to run the kernels of sptr, for tests without a GPU.
//
// Blocks run one after the other; the threads of a block are coroutines that switch only at barriers and shuffles, and the
// first (or last: sptr_emulation_order) thread that can run always does. A read that is not separated by a barrier from
// another thread's write therefore gives wrong results in one of the orders. Shared memory begins as NaN and ends at a guard zone. A block
// whose threads do not all reach the same barrier, or that writes beyond its shared memory, fails the launch.
#pragma once

#include <immintrin.h>
#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <memory>
#include <vector>

#define __global__
#define __device__
#define __host__
#define __shared__ static
#define __launch_bounds__(...)
#define __align__(n) alignas(n)
#define SPTR_DYNAMIC_SHARED(name) float* name = emulation::shared_memory()

struct alignas(16) float4 { float x, y, z, w; };
struct alignas(16) int4 { int x, y, z, w; };
struct dim3 {
  unsigned x, y = 1, z = 1;
  dim3(unsigned size = 1) : x(size) {}
};
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
inline int4 make_int4(int x, int y, int z, int w) { return {x, y, z, w}; }
using std::max;
using std::min;

using cudaStream_t = void*;
enum cudaError_t { cudaSuccess = 0, cudaErrorInvalidValue = 1, cudaErrorLaunchFailure = 719 };
enum cudaDeviceAttr { cudaDevAttrMaxSharedMemoryPerBlockOptin, cudaDevAttrMultiProcessorCount };
enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize };

inline dim3 threadIdx, blockIdx, blockDim, gridDim;

namespace emulation {

constexpr size_t kGuard = 4096, kStack = 128 * 1024, kMaxShared = 227 * 1024;

struct Barrier {
  unsigned arrived = 0;
  long generation = 0;
};

struct Thread {
  ucontext_t context;
  std::unique_ptr<char[]> stack{new char[kStack]};
  bool done = false;
  const Barrier* waiting = nullptr;
  long generation = 0;  // of that barrier on arrival
  bool can_run() const { return !done && (!waiting || waiting->generation != generation); }
};

struct State {
  std::vector<Thread> threads;
  ucontext_t scheduler;
  Barrier block;
  std::vector<Barrier> warps;
  std::vector<long long> shuffled;
  std::vector<char> shared;
  int barrier_line = 0;
  bool mixed_barriers = false;
  bool descending = false;
  int shared_limit = kMaxShared, processors = 1, launches = 0;
  void (*body)(void*) = nullptr;
  void* argument = nullptr;
};
inline State state;

inline float* shared_memory() {
  return reinterpret_cast<float*>((reinterpret_cast<uintptr_t>(state.shared.data()) + 127) / 128 * 128);
}

inline void wait(Barrier& barrier, unsigned expected) {
  Thread& self = state.threads[threadIdx.x];
  self.waiting = &barrier;
  self.generation = barrier.generation;
  if (++barrier.arrived == expected) {
    barrier.arrived = 0;
    ++barrier.generation;
  }
  swapcontext(&self.context, &state.scheduler);
}

inline void block_barrier(int line) {
  if (state.block.arrived == 0) state.barrier_line = line;
  if (state.barrier_line != line) state.mixed_barriers = true;
  wait(state.block, blockDim.x);
}

inline void entry() {
  state.body(state.argument);
  state.threads[threadIdx.x].done = true;
}

inline bool run_block(size_t bytes) {
  const unsigned count = blockDim.x;
  state.block = {};
  state.warps.assign((count + 31) / 32, {});
  state.shuffled.assign(count, 0);
  state.shared.assign(bytes + kGuard + 128, static_cast<char>(0xff));
  if (state.threads.size() < count) state.threads.resize(count);
  for (unsigned t = 0; t < count; ++t) {
    Thread& thread = state.threads[t];
    thread.done = false;
    thread.waiting = nullptr;
    getcontext(&thread.context);
    thread.context.uc_stack.ss_sp = thread.stack.get();
    thread.context.uc_stack.ss_size = kStack;
    thread.context.uc_link = &state.scheduler;
    makecontext(&thread.context, entry, 0);
  }
  for (;;) {
    unsigned next = 0;
    const auto thread = [&](unsigned i) { return state.descending ? count - 1 - i : i; };
    while (next < count && !state.threads[thread(next)].can_run()) ++next;
    if (next == count) break;
    threadIdx.x = thread(next);
    swapcontext(&state.scheduler, &state.threads[threadIdx.x].context);
  }
  for (unsigned t = 0; t < count; ++t)
    if (!state.threads[t].done) return false;  // waits for threads that never come
  const char* guard = reinterpret_cast<const char*>(shared_memory()) + bytes;
  return !state.mixed_barriers && std::all_of(guard, guard + kGuard, [](char c) { return c == static_cast<char>(0xff); });
}

}  // namespace emulation

#define __syncthreads() emulation::block_barrier(__LINE__)

inline long long __shfl_sync(unsigned, long long value, int lane) {
  using emulation::state;
  const unsigned self = threadIdx.x, warp = self / 32, width = std::min(32u, blockDim.x - warp * 32);
  state.shuffled[self] = value;
  emulation::wait(state.warps[warp], width);
  const long long result = state.shuffled[warp * 32 + lane];
  emulation::wait(state.warps[warp], width);  // nobody writes again before everyone has read
  return result;
}

inline float atomicAdd(float* target, float value) {
  const float before = *target;
  *target += value;
  return before;
}

inline float __int_as_float(int bits) {
  float value;
  std::memcpy(&value, &bits, 4);
  return value;
}
inline int __float_as_int(float value) {
  int bits;
  std::memcpy(&bits, &value, 4);
  return bits;
}

struct __half { unsigned short bits; };
inline __half __ushort_as_half(unsigned short bits) { return {bits}; }
inline unsigned short __half_as_ushort(__half value) { return value.bits; }
inline float __half2float(__half value) { return _cvtsh_ss(value.bits); }
inline __half __float2half_rn(float value) { return {_cvtss_sh(value, 0)}; }

struct __nv_bfloat16 { unsigned short bits; };
inline __nv_bfloat16 __ushort_as_bfloat16(unsigned short bits) { return {bits}; }
inline unsigned short __bfloat16_as_ushort(__nv_bfloat16 value) { return value.bits; }
inline float __bfloat162float(__nv_bfloat16 value) { return __int_as_float(static_cast<int>(value.bits) << 16); }
inline __nv_bfloat16 __float2bfloat16_rn(float value) {
  const unsigned bits = static_cast<unsigned>(__float_as_int(value));
  if (value != value) return {0x7fff};
  return {static_cast<unsigned short>((bits + 0x7fff + (bits >> 16 & 1)) >> 16)};
}

inline cudaError_t cudaSetDevice(int) { return cudaSuccess; }
inline cudaError_t cudaGetLastError() { return cudaSuccess; }
inline const char* cudaGetErrorString(cudaError_t error) {
  return error == cudaErrorLaunchFailure ? "emulated launch failed: a barrier or shared memory" : "invalid argument";
}
inline cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr what, int) {
  *value = what == cudaDevAttrMultiProcessorCount ? emulation::state.processors : emulation::state.shared_limit;
  return cudaSuccess;
}
template <typename T>
cudaError_t cudaFuncSetAttribute(void (*)(T), cudaFuncAttribute, int bytes) {
  return bytes <= emulation::state.shared_limit ? cudaSuccess : cudaErrorInvalidValue;
}

template <typename T>
cudaError_t cudaLaunchKernel(void (*kernel)(T), dim3 grid, dim3 block, void** arguments, size_t bytes, cudaStream_t) {
  struct Call {
    void (*kernel)(T);
    T* argument;
  } call = {kernel, static_cast<T*>(arguments[0])};
  emulation::state.body = [](void* at) { static_cast<Call*>(at)->kernel(*static_cast<Call*>(at)->argument); };
  emulation::state.argument = &call;
  emulation::state.mixed_barriers = false;
  ++emulation::state.launches;
  blockDim = block;
  gridDim = grid;
  for (unsigned b = 0; b < grid.x; ++b) {
    blockIdx.x = b;
    if (!emulation::run_block(bytes)) return cudaErrorLaunchFailure;
  }
  return cudaSuccess;
}

extern "C" {
inline __attribute__((used)) void sptr_emulation_order(int descending) { emulation::state.descending = descending; }
// What the emulated device has: decides the tile sizes
inline __attribute__((used)) void sptr_emulation_device(int shared_bytes, int processors) {
  emulation::state.shared_limit = shared_bytes;
  emulation::state.processors = processors;
}
}
