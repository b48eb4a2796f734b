// How a step's attention is cut into items that threads take one by one.
#pragma once

#include <cstdint>
#include <vector>

#include "batch.h"

namespace stoker {

struct PlannedItem {
  int sequence;
  int kv_head;
  int first_token;  // in the batch
  int queries;
  int partition;    // absolute index; -1: all that the queries see
  int slot;         // of the partial results, when partition is not -1
  int64_t cost;     // query-key pairs, about
};

// The partial results of a query against one key-value head, to be merged.
struct PlannedMerge {
  int token;
  int kv_head;
  int slot;
  int partitions;
};

struct AttentionPlan {
  std::vector<PlannedItem> items;  // costliest first
  std::vector<PlannedMerge> merges;
};

// A lone long sequence is cut into its partitions so that every thread has work; `partial_slots`
// bounds how many. How items are cut never changes a result.
void plan_attention(const Batch& batch, const ModelConfig& config, int window, int threads,
                    int partial_slots, AttentionPlan& plan);

}  // namespace stoker
