// Where a step's time goes, measured on its first thread and only when asked.
#pragma once

#include <chrono>

namespace stoker {

// Seconds of a step by kind of work.
struct Timings {
  double matmul = 0, attention = 0, sampling = 0, other = 0;
};

class StepClock {
 public:
  explicit StepClock(Timings* timings) : timings_(timings) {
    if (timings_) last_ = std::chrono::steady_clock::now();
  }

  // Adds the time since the last mark to a kind of work.
  void mark(double Timings::*kind) {
    if (!timings_) return;
    const auto now = std::chrono::steady_clock::now();
    timings_->*kind += std::chrono::duration<double>(now - last_).count();
    last_ = now;
  }

 private:
  Timings* timings_;
  std::chrono::steady_clock::time_point last_;
};

}  // namespace stoker
