#include "weight_memory.h"

#include <cstdlib>
#include <cstring>
#include <mutex>
#include <new>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace stoker {
namespace {

constexpr size_t kHugePage = size_t{2} << 20;
constexpr size_t kRegion = size_t{32} << 20;  // reserved; pages become resident when written

size_t rounded_up(size_t n, size_t to) { return (n + to - 1) / to * to; }

class Region {
 public:
  explicit Region(size_t bytes) : size_(rounded_up(bytes, kHugePage)) {
#if defined(__linux__)
    mapped_ = size_ + kHugePage;  // room to align
    mapping_ = mmap(nullptr, mapped_, PROT_READ | PROT_WRITE,
                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (mapping_ == MAP_FAILED) throw std::bad_alloc();
    begin_ = reinterpret_cast<uint8_t*>(
        rounded_up(reinterpret_cast<uintptr_t>(mapping_), kHugePage));
    madvise(begin_, size_, MADV_HUGEPAGE);  // advice: where it is refused, pages are small
#else
    begin_ = static_cast<uint8_t*>(std::aligned_alloc(64, size_));
    if (!begin_) throw std::bad_alloc();
    memset(begin_, 0, size_);
#endif
  }
  Region(const Region&) = delete;
  Region& operator=(const Region&) = delete;
  ~Region() {
#if defined(__linux__)
    munmap(mapping_, mapped_);
#else
    std::free(begin_);
#endif
  }

  // The next `bytes`, or null when there is not so much left.
  uint8_t* take(size_t bytes) {
    bytes = rounded_up(bytes, 64);
    if (bytes > size_ - used_) return nullptr;
    uint8_t* taken = begin_ + used_;
    used_ += bytes;
    return taken;
  }

 private:
  uint8_t* begin_ = nullptr;
  size_t size_ = 0, used_ = 0;
#if defined(__linux__)
  void* mapping_ = nullptr;
  size_t mapped_ = 0;
#endif
};

std::shared_ptr<uint8_t> take_from(std::shared_ptr<Region> region, size_t bytes) {
  uint8_t* taken = region->take(bytes);
  return taken ? std::shared_ptr<uint8_t>(std::move(region), taken) : nullptr;
}

}  // namespace

std::shared_ptr<uint8_t> allocate_weights(size_t bytes) {
  if (bytes > kRegion / 4) return take_from(std::make_shared<Region>(bytes), bytes);
  static std::mutex mutex;
  static std::weak_ptr<Region> current;  // weak: a region lives as long as what was cut from it
  const std::lock_guard lock(mutex);
  std::shared_ptr<Region> region = current.lock();
  if (region)
    if (auto taken = take_from(region, bytes)) return taken;
  region = std::make_shared<Region>(kRegion);
  current = region;
  return take_from(std::move(region), bytes);
}

}  // namespace stoker
