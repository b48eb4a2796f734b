#include "workspace.h"

#include <algorithm>

#include "sample.h"

namespace stoker {
namespace {

// Logits are computed for so many rows at a time that they take no more than this.
constexpr size_t kLogitBytes = size_t{64} << 20;
constexpr int kMaxLogitRows = 64;
constexpr int kPartialSlotsPerThread = 256;

size_t aligned(size_t bytes) { return (bytes + 63) / 64 * 64; }

class Arena {
 public:
  explicit Arena(uint8_t* base) : base_(base) {}
  template <typename T>
  T* take(size_t count) {
    uint8_t* p = base_ ? base_ + used_ : nullptr;
    used_ += aligned(count * sizeof(T));
    return reinterpret_cast<T*>(p);
  }
  size_t used() const { return used_; }

 private:
  uint8_t* base_;
  size_t used_ = 0;
};

}  // namespace

Workspace::Workspace(const ModelConfig& c, const AttentionShape& shape,
                     const WorkspaceLimits& limits, uint8_t* base)
    : int8_(limits.int8), bf16_(limits.bf16) {
  Arena arena(base);
  const size_t tokens = limits.max_tokens;
  const auto rounded_bytes = [&](int rows, int cols) {
    return (int8_ ? activation_bytes(ActivationFormat::int8, rows, cols) : 0) +
           (bf16_ ? activation_bytes(ActivationFormat::bf16, rows, cols) : 0);
  };
  x = arena.take<float>(tokens * c.hidden_size);
  projected = arena.take<float>(tokens * c.hidden_size);
  qkv = arena.take<float>(tokens * c.qkv_size());
  hidden = arena.take<uint8_t>(rounded_bytes(limits.max_tokens, c.hidden_size));
  attention = arena.take<uint8_t>(rounded_bytes(limits.max_tokens, c.q_size()));
  inner = arena.take<uint8_t>(rounded_bytes(limits.max_tokens, c.intermediate_size));
  positions = arena.take<int32_t>(tokens);
  sequences = arena.take<int32_t>(tokens);

  const size_t row = aligned(sizeof(float) * c.vocab_size);
  logit_rows = static_cast<int>(std::clamp<size_t>(kLogitBytes / row, 1, kMaxLogitRows));
  logit_rows = std::min(logit_rows, limits.max_tokens);
  logits = arena.take<float>(static_cast<size_t>(logit_rows) * c.vocab_size);

  partial_slots = kPartialSlotsPerThread * limits.threads;
  partials = arena.take<float>(static_cast<size_t>(partial_slots) * shape.group *
                               partial_floats(shape));

  row_bytes_ = aligned(sizeof(float) * c.hidden_size);
  tile_bytes_ = aligned(sizeof(float) * kMlpTileOutputs);
  attention_bytes_ = attention_scratch_bytes(shape);
  sampling_bytes_ = aligned(sample_scratch_bytes(c.vocab_size));
  thread_bytes_ = row_bytes_ + 2 * tile_bytes_ + attention_bytes_ + sampling_bytes_ +
                  rounded_bytes(kRedundantRows, c.hidden_size);
  threads_ = arena.take<uint8_t>(thread_bytes_ * limits.threads);
  bytes = arena.used();
}

ThreadWorkspace Workspace::thread(int t) const {
  uint8_t* p = threads_ + thread_bytes_ * t;
  ThreadWorkspace w;
  w.row = reinterpret_cast<float*>(p);
  p += row_bytes_;
  w.gate = reinterpret_cast<float*>(p);
  w.up = reinterpret_cast<float*>(p + tile_bytes_);
  p += 2 * tile_bytes_;
  w.attention = p;
  w.sampling = p + attention_bytes_;
  w.redundant = p + attention_bytes_ + sampling_bytes_;
  return w;
}

Rounded Workspace::rounded(uint8_t* memory, int rows, int cols) const {
  Rounded r;
  if (int8_) {
    r.int8 = lay_out_activations(memory, ActivationFormat::int8, rows, cols);
    memory += activation_bytes(ActivationFormat::int8, rows, cols);
  }
  if (bf16_) r.bf16 = lay_out_activations(memory, ActivationFormat::bf16, rows, cols);
  return r;
}

}  // namespace stoker
