// Tasks handed to threads by an atomic counter. Each task writes only its own results, so the outcome does not depend
// on the number of threads. Threads live for one call: nothing outlives a fork().
#pragma once

#include <atomic>
#include <cstdint>
#include <thread>
#include <vector>

namespace sptr {

// Every worker makes one scratch space with make() and runs task(index, scratch).
template <typename Make, typename Task>
void parallel_for(int64_t count, int threads, const Make& make, const Task& task) {
  if (threads > count) threads = static_cast<int>(count);
  std::atomic<int64_t> next{0};
  auto work = [&] {
    auto scratch = make();
    for (int64_t i = next.fetch_add(1); i < count; i = next.fetch_add(1)) task(i, scratch);
  };
  std::vector<std::thread> helpers;
  for (int worker = 1; worker < threads; ++worker) helpers.emplace_back(work);
  work();
  for (auto& helper : helpers) helper.join();
}

}  // namespace sptr
