// One engine step as the native side sees it: views of the arrays of `runner.base.Batch`.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "model_config.h"
#include "sample.h"

namespace stoker {

struct Batch {
  int tokens = 0, sequences = 0, table_width = 0;
  const int32_t* token_ids = nullptr;
  const int32_t* query_starts = nullptr;
  const int32_t* context_lens = nullptr;
  const int32_t* block_tables = nullptr;  // [sequences][table_width]
  int copies = 0;
  const int32_t* block_copies = nullptr;  // [copies][2]
  int embeds = 0;
  const int32_t* embed_rows = nullptr;
  std::vector<SampleRequest> samples;
  std::vector<SampleExtras> extras;  // that the samples point to
  std::vector<ScoreRequest> scores;
  // Called by one thread before any sample's extras are read; must not throw.
  std::function<void()> before_sampling;

  const int32_t* block_table(int sequence) const {
    return block_tables + static_cast<ptrdiff_t>(sequence) * table_width;
  }
};

struct BatchLimits {
  int max_tokens = 0, max_sequences = 0;
  int64_t blocks = 0;
};

// Throws std::invalid_argument, naming the field, if the step would read or write outside the
// model's memory.
void check(const Batch& batch, const ModelConfig& config, const BatchLimits& limits);

// The same for what a sample asks besides.
void check(const SampleExtras& extras, int vocab);

}  // namespace stoker
