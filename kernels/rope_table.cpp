#include "rope_table.h"

#include <cmath>

namespace stoker {

void RopeTable::extend(int positions) {
  while (static_cast<int>(chunks_.size()) * kChunk < positions) {
    auto chunk = std::make_unique<float[]>(static_cast<size_t>(kChunk) * config_.dim);
    const int start = static_cast<int>(chunks_.size()) * kChunk;
    for (int p = 0; p < kChunk; ++p)
      for (int i = 0; i < half(); ++i) {
        // The angle is rounded to float32, as everywhere models are trained and run.
        const double angle = static_cast<float>(start + p) * static_cast<float>(config_.inv_freq[i]);
        float* row = chunk.get() + static_cast<size_t>(p) * config_.dim;
        row[i] = static_cast<float>(std::cos(angle) * config_.attention_factor);
        row[half() + i] = static_cast<float>(std::sin(angle) * config_.attention_factor);
      }
    chunks_.push_back(std::move(chunk));
  }
}

}  // namespace stoker
