#include "threads.h"

#include <pthread.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <thread>

namespace lidistill {
namespace {

constexpr std::chrono::microseconds kSpin{200};

inline void relax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// Spins until ready() or until time is up; returns the last answer.
template <typename Ready>
bool spin(const Ready& ready) {
  const auto stop = std::chrono::steady_clock::now() + kSpin;
  do {
    for (int i = 0; i < 64; ++i, relax())
      if (ready()) return true;
  } while (std::chrono::steady_clock::now() < stop);
  return ready();
}

// Every helper answers every call, also one that asks for fewer: so none can meet a call's fields while the next is
// being written. Leaked on purpose: helpers wait in it until the process ends.
class Pool {
 public:
  bool run(int threads, void (*work)(void*, int), void* context) {
    std::unique_lock<std::mutex> owner(owner_, std::try_to_lock);
    if (!owner) return false;
    for (; size_ < threads - 1; ++size_) std::thread(&Pool::help, this, size_ + 1, calls_.load()).detach();
    work_ = work, context_ = context, threads_ = threads;
    working_.store(size_);
    {
      std::lock_guard<std::mutex> lock(mutex_);
      calls_.fetch_add(1);
    }
    wake_.notify_all();
    work(context, 0);
    const auto finished = [this] { return working_.load() == 0; };
    if (!spin(finished)) {
      std::unique_lock<std::mutex> lock(mutex_);
      done_.wait(lock, finished);
    }
    return true;
  }

 private:
  void help(int worker, uint64_t seen) {
    for (;; ++seen) {
      const auto called = [&] { return calls_.load() != seen; };
      if (!spin(called)) {
        std::unique_lock<std::mutex> lock(mutex_);
        wake_.wait(lock, called);
      }
      if (worker < threads_) work_(context_, worker);
      if (working_.fetch_sub(1) == 1) {
        std::lock_guard<std::mutex> lock(mutex_);
        done_.notify_one();
      }
    }
  }

  std::mutex owner_, mutex_;
  std::condition_variable wake_, done_;
  std::atomic<uint64_t> calls_{0};
  std::atomic<int> working_{0};
  void (*work_)(void*, int) = nullptr;
  void* context_ = nullptr;
  int threads_ = 0, size_ = 0;
};

Pool* pool = nullptr;

}  // namespace

void run_on_threads(int threads, void (*work)(void*, int), void* context) {
  static std::once_flag once;
  std::call_once(once, [] {
    pool = new Pool;
    pthread_atfork(nullptr, nullptr, [] { pool = new Pool; });  // a forked child has no helpers
  });
  if (!pool->run(threads, work, context)) work(context, 0);
}

}  // namespace lidistill
