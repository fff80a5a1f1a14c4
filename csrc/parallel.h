// Work sharing between a few threads. Tasks are handed out by an atomic counter; each writes only its own results, so
// the outcome does not depend on the number of threads.
#pragma once

#include <atomic>
#include <cstdint>

#include "threads.h"

namespace lidistill {

template <typename Task>
void parallel_for(int64_t count, int threads, const Task& task) {
  if (threads > count) threads = static_cast<int>(count);
  if (threads <= 1) {
    for (int64_t i = 0; i < count; ++i) task(i, 0);
    return;
  }
  std::atomic<int64_t> next{0};
  auto work = [&](int worker) {
    for (int64_t i = next.fetch_add(1); i < count; i = next.fetch_add(1)) task(i, worker);
  };
  run_on_threads(threads, [](void* context, int worker) { (*static_cast<decltype(work)*>(context))(worker); }, &work);
}

}  // namespace lidistill
