// A fixed set of threads that run one function together, with a barrier cheap enough to stand
// between the phases of every layer.
//
// A step of the model is one region: every thread runs the whole forward pass, takes its share of
// each phase and meets the others at `barrier()`. Waiting threads look again and again for some
// microseconds, then sleep, so an idle pool costs nothing and an oversubscribed one still moves.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <thread>
#include <vector>

namespace stoker {

class ThreadPool {
 public:
  // `threads` counts the caller of `run`, which works too.
  explicit ThreadPool(int threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int size() const { return size_; }

  // Calls `work(thread)` with 0 … size() - 1, one on each thread, and returns when all have ended.
  // Not reentrant; `work` must not throw. Memory written by the caller before `run` is visible to
  // every thread, and what threads wrote is visible to the caller afterwards.
  void run(const std::function<void(int)>& work);

  // Meets all other threads of the region. Each must call it equally often, with its own number.
  void barrier(int thread);

 private:
  struct alignas(64) Wait {
    int spins;  // how often to look before sleeping
  };

  void worker(int thread);
  void wait_for_region(uint32_t seen);

  const int size_;
  const std::function<void(int)>* work_ = nullptr;
  bool stop_ = false;

  // Each on its own cache line: the counter is written by every thread that arrives while the
  // generation is read by every thread that waits.
  alignas(64) std::atomic<uint32_t> arrived_{0};
  alignas(64) std::atomic<uint32_t> generation_{0};
  alignas(64) std::atomic<uint32_t> region_{0};

  std::vector<Wait> waits_;  // of each thread
  std::vector<std::thread> threads_;
};

// A shared counter that hands out items 0, 1, 2 … to whichever thread comes next. Which thread
// computes an item never changes what it computes.
class alignas(64) Tickets {
 public:
  void reset() { next_.store(0, std::memory_order_relaxed); }
  int take() { return next_.fetch_add(1, std::memory_order_relaxed); }

 private:
  std::atomic<int> next_{0};
};

// The share of `thread` among `threads` of `count` items: [begin, end), sizes differing by one.
struct Share {
  int begin, end;
};
inline Share share_of(int count, int thread, int threads) {
  const int64_t n = count;
  return {static_cast<int>(n * thread / threads), static_cast<int>(n * (thread + 1) / threads)};
}

}  // namespace stoker
