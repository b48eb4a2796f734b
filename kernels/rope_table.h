// Cosines and sines of a rotary embedding, computed in double precision once for each position.
#pragma once

#include <cstddef>
#include <memory>
#include <vector>

#include "model_config.h"

namespace stoker {

class RopeTable {
 public:
  explicit RopeTable(const RopeConfig& config) : config_(config) {}

  // Makes the table reach `positions` positions. Not while another thread reads.
  void extend(int positions);

  int half() const { return config_.dim / 2; }
  const float* cosines(int position) const {
    return chunks_[position / kChunk].get() + static_cast<size_t>(position % kChunk) * config_.dim;
  }
  const float* sines(int position) const { return cosines(position) + half(); }

 private:
  static constexpr int kChunk = 256;  // positions
  RopeConfig config_;
  std::vector<std::unique_ptr<float[]>> chunks_;  // [positions][cosines, sines]
};

}  // namespace stoker
