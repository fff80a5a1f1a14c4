// Runs the CUDA kernels of csrc/cuda on the host: every GPU thread is a fibre, every warp-wide instruction does what the
// PTX manual says its lanes hold. Made to find mistakes, not to be fast:
//   - between two barriers the threads run in an order that a seed shuffles, so a missing barrier changes results;
//   - asynchronous copies happen as late as the kernel's waits allow (or at once, if configured);
//   - shared memory starts as NaN, and copies and matrix loads check their addresses;
//   - a barrier that some thread never reaches is an error.
#pragma once

#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <functional>
#include <memory>
#include <random>
#include <vector>

#define __global__
#define __device__
#define __launch_bounds__(n)
#define LD_DYNAMIC_SHARED(name) char* name = emulation::machine.shared

enum cudaError_t { cudaSuccess = 0, cudaErrorInvalidValue = 1, cudaErrorInvalidConfiguration = 9, cudaErrorLaunchFailure = 719 };
typedef void* cudaStream_t;
inline const char* cudaGetErrorString(cudaError_t code) { return code ? "failed in emulation" : "no error"; }
inline cudaError_t cudaMemsetAsync(void* p, int value, size_t bytes, cudaStream_t) {
  std::memset(p, value, bytes);
  return cudaSuccess;
}
inline cudaError_t cudaSetDevice(int) { return cudaSuccess; }
struct dim3 {
  unsigned x, y, z;
  dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

namespace emulation {

struct Copy {
  void* shared;
  const void* global;
  bool valid;
  void perform() const {
    if (valid)
      std::memcpy(shared, global, 16);
    else
      std::memset(shared, 0, 16);
  }
};

enum State { kReady, kAtWarp, kAtBlock, kDone };

struct Thread {
  ucontext_t context;
  std::unique_ptr<char[]> stack;
  State state;
  dim3 index;
  unsigned exchanges;
  std::vector<std::vector<Copy>> groups;  // the last one is open
};

struct Exchange {  // what the lanes of a warp show each other in one warp-wide instruction
  const void* rows[32];
  float a[16][16], b[16][8];
};

struct Machine {
  static constexpr int kMostThreads = 256, kMostShared = 227 * 1024, kStack = 128 * 1024;
  alignas(16) char shared[kMostShared];
  int shared_bytes = 0;
  std::vector<Thread> threads;
  Exchange exchanges[kMostThreads / 32][2];
  Thread* current = nullptr;
  ucontext_t scheduler;
  dim3 block;
  std::function<void()> body;
  std::mt19937 random{0};
  bool eager = false;
  int few_blocks = 256;
  const char* failure = nullptr;

  void fail(const char* why) {
    if (!failure) std::fprintf(stderr, "emulated kernel: %s\n", why);
    failure = why;
  }
  void wait(State state) {
    current->state = state;
    swapcontext(&current->context, &scheduler);
  }
  bool release(size_t first, size_t end, State state) {
    for (size_t i = first; i < end; ++i)
      if (threads[i].state != state) return false;
    for (size_t i = first; i < end; ++i) threads[i].state = kReady;
    return true;
  }
  static void enter();
  void run_block(int count) {
    std::memset(shared, 0xff, sizeof shared);
    if (threads.size() < static_cast<size_t>(count)) threads.resize(count);
    std::vector<int> order(count);
    for (int i = 0; i < count; ++i) {
      Thread& t = threads[i];
      if (!t.stack) t.stack.reset(new char[kStack]);
      t.state = kReady;
      t.index = dim3(i);
      t.exchanges = 0;
      t.groups.assign(1, {});
      getcontext(&t.context);
      t.context.uc_stack.ss_sp = t.stack.get();
      t.context.uc_stack.ss_size = kStack;
      t.context.uc_link = &scheduler;
      makecontext(&t.context, &Machine::enter, 0);
      order[i] = i;
    }
    while (!failure) {
      std::shuffle(order.begin(), order.end(), random);
      bool moved = false, all_done = true;
      for (int i : order) {
        if (threads[i].state != kReady) continue;
        moved = true;
        current = &threads[i];
        swapcontext(&scheduler, &current->context);
      }
      for (int i = 0; i < count; ++i) all_done &= threads[i].state == kDone;
      if (all_done) return;
      for (int i = 0; i < count; i += 32) moved |= release(i, std::min(i + 32, count), kAtWarp);
      moved |= release(0, count, kAtBlock);
      if (!moved) fail("a barrier that not every thread reaches");
    }
  }
  void check_shared(const void* p) {
    const char* at = static_cast<const char*>(p);
    if (at < shared || at + 16 > shared + shared_bytes) fail("outside of shared memory");
    if (reinterpret_cast<uintptr_t>(p) % 16) fail("misaligned shared memory");
  }
};

inline Machine machine;

inline void Machine::enter() {
  machine.body();
  machine.current->state = kDone;
}

template <class Show>
Exchange& exchange(const Show& show) {  // two buffers in turn, so that one barrier per exchange is enough
  Thread& t = *machine.current;
  Exchange& e = machine.exchanges[t.index.x / 32][t.exchanges++ % 2];
  show(e);
  machine.wait(kAtWarp);
  return e;
}

}  // namespace emulation

#define threadIdx (emulation::machine.current->index)
#define blockIdx (emulation::machine.block)
inline void __syncthreads() { emulation::machine.wait(emulation::kAtBlock); }

namespace lidistill {

template <class... Parameters, class... Arguments>
cudaError_t launch(void (*kernel)(Parameters...), dim3 grid, int threads, int shared, void*, Arguments... arguments) {
  auto& m = emulation::machine;
  if (threads > m.kMostThreads || shared > m.kMostShared || !grid.x || !grid.y || !grid.z) return cudaErrorInvalidConfiguration;
  if (grid.y > 65535 || grid.z > 65535) return cudaErrorInvalidConfiguration;
  m.shared_bytes = shared;
  m.failure = nullptr;
  m.body = [=] { kernel(arguments...); };
  for (unsigned z = 0; z < grid.z; ++z)
    for (unsigned y = 0; y < grid.y; ++y)
      for (unsigned x = 0; x < grid.x && !m.failure; ++x) {
        m.block = dim3(x, y, z);
        m.run_block(threads);
      }
  return m.failure ? cudaErrorLaunchFailure : cudaSuccess;
}

inline int few_blocks() { return emulation::machine.few_blocks; }

inline float to_float(float v) { return v; }
inline float to_float(f16 v) {
  _Float16 h;
  std::memcpy(&h, &v.bits, 2);
  return static_cast<float>(h);
}
inline float to_float(bf16 v) {
  const uint32_t bits = static_cast<uint32_t>(v.bits) << 16;
  float f;
  std::memcpy(&f, &bits, 4);
  return f;
}
inline void from_float(float v, float& out) { out = v; }
inline void from_float(float v, f16& out) {
  const _Float16 h = static_cast<_Float16>(v);
  std::memcpy(&out.bits, &h, 2);
}
inline void from_float(float v, bf16& out) {
  uint32_t bits;
  std::memcpy(&bits, &v, 4);
  out.bits = std::isnan(v) ? 0x7fff : static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

inline void copy_async(void* shared, const void* global, bool valid) {
  auto& m = emulation::machine;
  m.check_shared(shared);
  if (reinterpret_cast<uintptr_t>(global) % 16) m.fail("misaligned global memory");
  const emulation::Copy copy = {shared, global, valid};
  if (m.eager)
    copy.perform();
  else
    m.current->groups.back().push_back(copy);
}
inline void copy_commit() { emulation::machine.current->groups.emplace_back(); }
template <int kPending>
void copy_wait() {
  auto& groups = emulation::machine.current->groups;
  while (groups.size() > kPending + 1) {  // the open one does not count
    for (const auto& copy : groups.front()) copy.perform();
    groups.erase(groups.begin());
  }
}

template <bool transposed>
void load_matrices(uint32_t (&r)[4], const void* row) {
  emulation::machine.check_shared(row);
  const unsigned lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  const auto& e = emulation::exchange([&](emulation::Exchange& x) { x.rows[lane] = row; });
  for (unsigned i = 0; i < 4; ++i) {
    uint16_t v[2];
    for (unsigned w = 0; w < 2; ++w) {
      const unsigned from = transposed ? 2 * t + w : g, element = transposed ? g : 2 * t + w;
      v[w] = static_cast<const uint16_t*>(e.rows[8 * i + from])[element];
    }
    r[i] = v[0] | static_cast<uint32_t>(v[1]) << 16;
  }
}

// c += a b with what the lanes have shown; depth: columns of a
inline void multiply_shown(float (&c)[4], const emulation::Exchange& e, int depth) {
  const unsigned lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  for (int i = 0; i < 4; ++i)
    for (int k = 0; k < depth; ++k) c[i] += e.a[g + i / 2 * 8][k] * e.b[k][2 * t + i % 2];
}
template <class T>
void multiply_tile(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1, T) {
  const unsigned lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  const auto part = [](uint32_t pair, int w) { return to_float(T{static_cast<uint16_t>(pair >> 16 * w)}); };
  const auto& e = emulation::exchange([&](emulation::Exchange& x) {
    for (int w = 0; w < 2; ++w) {
      for (int q = 0; q < 4; ++q) x.a[g + q % 2 * 8][2 * t + q / 2 * 8 + w] = part(a[q], w);
      x.b[2 * t + w][g] = part(b0, w);
      x.b[2 * t + 8 + w][g] = part(b1, w);
    }
  });
  multiply_shown(c, e, 16);
}

inline uint32_t to_tf32(float v) {
  uint32_t bits;
  std::memcpy(&bits, &v, 4);
  return (bits + 0x1000) & ~0x1fffu;
}
inline void multiply_tile_tf32(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  const unsigned lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  const auto number = [](uint32_t bits) {
    float f;
    std::memcpy(&f, &bits, 4);
    return f;
  };
  const auto& e = emulation::exchange([&](emulation::Exchange& x) {
    for (int q = 0; q < 4; ++q) x.a[g + q % 2 * 8][t + q / 2 * 4] = number(a[q]);
    x.b[t][g] = number(b0);
    x.b[t + 4][g] = number(b1);
  });
  multiply_shown(c, e, 8);
}

}  // namespace lidistill

// Seed of the threads' order, whether asynchronous copies happen at once, and when to take small tiles.
extern "C" inline __attribute__((used)) void emulation_configure(unsigned seed, int eager, int few_blocks) {
  emulation::machine.random.seed(seed);
  emulation::machine.eager = eager;
  emulation::machine.few_blocks = few_blocks;
}
