#include "read_ahead.h"

#include <algorithm>

namespace stoker {
namespace {

// So short that a step which begins meanwhile hardly waits for its end.
constexpr size_t kPieceBytes = 32 << 10;
constexpr size_t kLineBytes = 64;

}  // namespace

ReadAhead::ReadAhead(const ModelWeights& weights, size_t bytes) : left_(bytes) {
  for (const LayerWeights& layer : weights.layers)
    for (const PackedMatrix* matrix :
         {&layer.q, &layer.k, &layer.v, &layer.o, &layer.up, &layer.gate, &layer.down}) {
      const size_t panels = static_cast<size_t>(matrix->panels());
      if (!panels) continue;
      const size_t blocks = panels * static_cast<size_t>(matrix->blocks());
      add(matrix->codes(0), blocks * matrix->codes_per_block());
      if (matrix->scales(0)) add(matrix->scales(0), blocks * kPanelRows * 2);
      if (matrix->has_mins()) add(matrix->mins(0), blocks * kPanelRows * 2);
    }
}

void ReadAhead::add(const void* data, size_t bytes) {
  const auto* begin = static_cast<const uint8_t*>(data);
  bytes = std::min(bytes, left_);
  left_ -= bytes;
  for (size_t at = 0; at < bytes; at += kPieceBytes)
    pieces_.push_back({begin + at, std::min(kPieceBytes, bytes - at)});
}

bool ReadAhead::fetch(size_t index, int reader, int readers) const {
  const size_t piece = index * static_cast<size_t>(readers) + static_cast<size_t>(reader);
  if (piece >= pieces_.size()) return false;
  const uint8_t* data = pieces_[piece].data;
  for (size_t at = 0; at < pieces_[piece].bytes; at += kLineBytes)
    __builtin_prefetch(data + at, 0, 2);
  return true;
}

}  // namespace stoker
