// The memory that a step works in, allocated once for the largest batch.
#pragma once

#include <cstddef>
#include <cstdint>

#include "attention.h"
#include "matmul.h"
#include "model_config.h"

namespace stoker {

// A batch of at most this many tokens is normalized and rounded by every thread for itself, which
// costs less than sharing the work and waiting for the others.
inline constexpr int kRedundantRows = 2;
// The MLP's inner activations are made in tiles of at most so many rows and outputs, small enough to
// stay in cache. Few rows take many panels at once, since each product starts without its weights.
inline constexpr int kMlpTileRows = 256;
inline constexpr int kMlpTileOutputs = kMlpTileRows * 4 * kPanelRows;

struct WorkspaceLimits {
  int max_tokens = 0, max_sequences = 0, threads = 1;
  bool int8 = true, bf16 = false;  // kinds of rounded activations that the weights ask for
};

// Rounded activations in each kind that is needed.
struct Rounded {
  Activations int8, bf16;
};

// The kind that a matrix of `weight`'s format is multiplied with.
inline const Activations& input_for(const Rounded& in, const PackedMatrix& weight) {
  return activation_format(weight.format()) == ActivationFormat::int8 ? in.int8 : in.bf16;
}

struct ThreadWorkspace {
  float* row;         // [hidden] one row, between a norm and its rounding
  float* gate;        // [kMlpTileOutputs]
  float* up;
  void* attention;    // attention_scratch_bytes
  void* sampling;     // sample_scratch_bytes
  uint8_t* redundant; // rounded activations of kRedundantRows rows
};

struct Workspace {
  // Lays everything out from `base`, 64-byte aligned; with a null base only counts `bytes`.
  Workspace(const ModelConfig& config, const AttentionShape& shape, const WorkspaceLimits& limits,
            uint8_t* base);

  float* x;           // [tokens][hidden] the residual stream
  float* projected;   // [tokens][hidden] outputs of attention and MLP
  float* qkv;         // [tokens][q + 2 kv]; attention's output replaces q
  uint8_t* hidden;    // rounded activations of [tokens][hidden]
  uint8_t* attention; // … [tokens][q]
  uint8_t* inner;     // … [tokens][intermediate]
  float* logits;      // [logit_rows][vocab]
  float* partials;    // [partial_slots][group][partial_floats]
  int32_t* positions; // [tokens]
  int32_t* sequences; // [tokens] sequence of each token
  int logit_rows;     // computed at a time
  int partial_slots;
  size_t bytes;

  ThreadWorkspace thread(int t) const;
  Rounded rounded(uint8_t* memory, int rows, int cols) const;

 private:
  const bool int8_, bf16_;
  uint8_t* threads_;
  size_t thread_bytes_, row_bytes_, tile_bytes_, attention_bytes_, sampling_bytes_;
};

}  // namespace stoker
