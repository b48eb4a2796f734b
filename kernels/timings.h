// Where a step's time goes, measured on its first thread and only when asked.
#pragma once

#include <chrono>
#include <iterator>

namespace stoker {

// The parts of a step, in the order in which they come. `waiting` is for the other threads at the
// end of any of them.
enum class Part : int {
  embed, norm, qkv, rotary, attention, output, gate_up, down, logits, sampling, waiting
};
inline constexpr const char* kPartNames[] = {"embed",  "norm",    "qkv",  "rotary", "attention",
                                             "output", "gate_up", "down", "logits", "sampling",
                                             "waiting"};
inline constexpr int kParts = static_cast<int>(std::size(kPartNames));

// Seconds of a step by part.
struct Timings {
  double seconds[kParts] = {};
};

class StepClock {
 public:
  explicit StepClock(Timings* timings) : timings_(timings) {
    if (timings_) last_ = std::chrono::steady_clock::now();
  }

  // Adds the time since the last mark to a part.
  void mark(Part part) {
    if (!timings_) return;
    const auto now = std::chrono::steady_clock::now();
    timings_->seconds[static_cast<int>(part)] += std::chrono::duration<double>(now - last_).count();
    last_ = now;
  }

 private:
  Timings* timings_;
  std::chrono::steady_clock::time_point last_;
};

}  // namespace stoker
