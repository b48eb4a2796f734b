#include "attention_plan.h"

#include <algorithm>

#include "attention.h"

namespace stoker {
namespace {

// With fewer items than this for each thread, long ones are split.
constexpr int kItemsPerThread = 4;

}  // namespace

void plan_attention(const Batch& batch, const ModelConfig& config, int window, int threads,
                    int partial_slots, AttentionPlan& plan) {
  plan.items.clear();
  plan.merges.clear();
  const int block = std::max(1, kItemRows / config.group());
  int64_t whole = 0;
  for (int s = 0; s < batch.sequences; ++s) {
    const int queries = batch.query_starts[s + 1] - batch.query_starts[s];
    whole += (queries + block - 1) / block * config.num_kv_heads;
  }
  const bool split = threads > 1 && whole < int64_t{kItemsPerThread} * threads;

  int slots = 0;
  for (int s = 0; s < batch.sequences; ++s) {
    const int start = batch.query_starts[s], queries = batch.query_starts[s + 1] - start;
    for (int q = 0; q < queries; q += block) {
      const int count = std::min(block, queries - q), position = batch.context_lens[s] + q;
      const PartitionRange range = visible_partitions(position, window);
      const int partitions = range.end - range.begin;
      const bool cut = split && queries == 1 && partitions > 1 &&
                       slots + partitions * config.num_kv_heads <= partial_slots;
      for (int head = 0; head < config.num_kv_heads; ++head) {
        if (!cut) {
          const int seen = window > 0 ? std::min(position + count, window + count)
                                      : position + count;
          plan.items.push_back({.sequence = s, .kv_head = head, .first_token = start + q,
                                .queries = count, .partition = -1, .slot = 0,
                                .cost = int64_t{count} * seen});
          continue;
        }
        plan.merges.push_back(
            {.token = start, .kv_head = head, .slot = slots, .partitions = partitions});
        for (int p = range.begin; p < range.end; ++p)
          plan.items.push_back({.sequence = s, .kv_head = head, .first_token = start,
                                .queries = 1, .partition = p, .slot = slots++,
                                .cost = kPartitionTokens});
      }
    }
  }
  std::stable_sort(plan.items.begin(), plan.items.end(),
                   [](const PlannedItem& a, const PlannedItem& b) { return a.cost > b.cost; });
}

}  // namespace stoker
