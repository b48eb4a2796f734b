#include "thread_pool.h"

#include <algorithm>
#include <chrono>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace stoker {
namespace {

inline void pause() {
#if defined(__x86_64__)
  _mm_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// How long to look before sleeping. Inside a region the others arrive within microseconds unless
// their processor was taken away; where that happens often, looking only keeps it from them.
constexpr int kMostSpins = 4000, kFewestSpins = 100;

// Between two steps an engine needs about this long, and being woken takes some tens of
// microseconds: until then whoever else can run may, and nobody sleeps.
constexpr std::chrono::microseconds kPatience{1000};
constexpr int kYieldsPerLook = 8;  // at the clock

void sleep_while(std::atomic<uint32_t>& word, uint32_t old) {
  while (word.load(std::memory_order_acquire) == old)
    word.wait(old, std::memory_order_acquire);
}

}  // namespace

ThreadPool::ThreadPool(int threads) : size_(threads < 1 ? 1 : threads), waits_(size_) {
  for (Wait& wait : waits_) wait.spins = kMostSpins;
  threads_.reserve(size_ - 1);
  for (int i = 1; i < size_; ++i) threads_.emplace_back([this, i] { worker(i); });
}

ThreadPool::~ThreadPool() {
  stop_ = true;
  region_.fetch_add(1, std::memory_order_release);
  region_.notify_all();
  for (auto& thread : threads_) thread.join();
}

void ThreadPool::run(const std::function<void(int)>& work) {
  if (size_ == 1) {
    work(0);
    return;
  }
  work_ = &work;
  region_.fetch_add(1, std::memory_order_release);
  region_.notify_all();
  work(0);
  barrier(0);
}

void ThreadPool::barrier(int thread) {
  if (size_ == 1) return;
  const uint32_t generation = generation_.load(std::memory_order_relaxed);
  if (arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 == static_cast<uint32_t>(size_)) {
    arrived_.store(0, std::memory_order_relaxed);
    generation_.fetch_add(1, std::memory_order_release);
    generation_.notify_all();
    return;
  }
  int& spins = waits_[thread].spins;
  for (int i = 0; i < spins; ++i) {
    if (generation_.load(std::memory_order_acquire) != generation) {
      spins = std::min(kMostSpins, spins + spins / 8 + 1);
      return;
    }
    pause();
  }
  spins = std::max(kFewestSpins, spins / 2);
  sleep_while(generation_, generation);
}

void ThreadPool::wait_for_region(uint32_t seen) {
  const auto start = std::chrono::steady_clock::now();
  do {
    for (int i = 0; i < kYieldsPerLook; ++i) {
      if (region_.load(std::memory_order_acquire) != seen) return;
      std::this_thread::yield();
    }
  } while (std::chrono::steady_clock::now() - start < kPatience);
  sleep_while(region_, seen);
}

void ThreadPool::worker(int thread) {
  // A worker may start after the first region has: it counts regions from zero, not from now.
  for (uint32_t seen = 0;; ++seen) {
    wait_for_region(seen);
    if (stop_) return;
    (*work_)(thread);
    barrier(thread);
  }
}

}  // namespace stoker
