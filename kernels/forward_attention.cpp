// Attention in a layer: rotary embedding, the cache, and the items of the plan.
#include <algorithm>

#include "forward.h"

namespace stoker {
namespace {

constexpr int kQueriesAhead = 4;  // that are fetched while one is turned

}  // namespace

void Forward::turn_head(int layer, const Vector& norm, int position, float* head) const {
  const int rope = config_.layers[layer].rope;
  if (config_.head_norm)
    ops_.rms_norm(head, norm.data(), config_.norm_eps, config_.head_dim, head);
  if (rope >= 0)
    ops_.rope(head, ropes_[rope].cosines(position), ropes_[rope].sines(position),
              ropes_[rope].half());
}

void Forward::turn_queries(int layer, int kv_head, int m) const {
  float* row = space_.qkv + static_cast<ptrdiff_t>(m) * config_.qkv_size();
  for (int g = kv_head * config_.group(); g < (kv_head + 1) * config_.group(); ++g)
    turn_head(layer, weights_.layers[layer].q_norm, space_.positions[m],
              row + g * config_.head_dim);
}

// The new keys and values into the cache. Queries are turned where attention reads them, unless
// several items share one.
void Forward::rotate_and_write(int layer, int thread) {
  const LayerWeights& w = weights_.layers[layer];
  const bool split = !plans_[window_of_layer_[layer]].merges.empty();
  const Share items = share_of(batch_->tokens * config_.num_kv_heads, thread, pool_.size());
  for (int item = items.begin; item < items.end; ++item) {
    const int m = item / config_.num_kv_heads, h = item % config_.num_kv_heads;
    const int position = space_.positions[m];
    if (split) turn_queries(layer, h, m);
    float* k = space_.qkv + static_cast<ptrdiff_t>(m) * config_.qkv_size() + config_.q_size() +
               h * config_.head_dim;
    turn_head(layer, w.k_norm, position, k);
    const int32_t block = batch_->block_table(space_.sequences[m])[position / kBlockTokens];
    attention_.write(shape_, cache_.head(layer, h) + block * cache_.block_stride(),
                     position % kBlockTokens, k, k + config_.kv_size());
  }
}

void Forward::attend(int layer, int thread, StepClock& clock) {
  const AttentionPlan& plan = plans_[window_of_layer_[layer]];
  const ThreadWorkspace mine = space_.thread(thread);
  const int width = config_.group() * config_.head_dim;
  const Rounded rounded = space_.rounded(space_.attention, batch_->tokens, config_.q_size());
  // A group's outputs may be rounded by themselves where they are whole blocks of columns.
  const bool whole = width % kBlockCols == 0;
  const auto head_of = [&](int token, int head) {
    return space_.qkv + static_cast<ptrdiff_t>(token) * config_.qkv_size() + head * width;
  };
  const size_t slot_floats = partial_floats(shape_) * config_.group();

  const int items = static_cast<int>(plan.items.size());
  for (int i; (i = attention_tickets_[layer].take()) < items;) {
    const PlannedItem& planned = plan.items[i];
    float* q = head_of(planned.first_token, planned.kv_head);
    const bool split = planned.partition >= 0;
    for (int m = 0; plan.merges.empty() && m < planned.queries; ++m) {
      if (m + kQueriesAhead < planned.queries) {
        const float* ahead = head_of(planned.first_token + m + kQueriesAhead, planned.kv_head);
        for (int d = 0; d < width; d += 16) __builtin_prefetch(ahead + d, 1);
      }
      turn_queries(layer, planned.kv_head, planned.first_token + m);
    }
    const AttentionItem item{
        .cache = cache_.head(layer, planned.kv_head),
        .block_stride = cache_.block_stride(),
        .block_table = batch_->block_table(planned.sequence),
        .first_position = space_.positions[planned.first_token],
        .queries = planned.queries,
        .window = config_.layers[layer].window,
        .q = q,
        .q_stride = config_.qkv_size(),
        .out = q,
        .out_stride = config_.qkv_size(),
        .partial = split ? space_.partials + planned.slot * slot_floats : nullptr,
        .partition = planned.partition};
    attention_.attend(shape_, item, mine.attention);
    if (whole && !split)
      for (int m = 0; m < planned.queries; ++m)
        round_part(q + static_cast<ptrdiff_t>(m) * config_.qkv_size(), planned.first_token + m,
                   planned.kv_head * width, width, rounded);
  }

  if (!plan.merges.empty()) {
    meet(Part::attention, thread, clock);
    const Share merges = share_of(static_cast<int>(plan.merges.size()), thread, pool_.size());
    for (int i = merges.begin; i < merges.end; ++i) {
      const PlannedMerge& planned = plan.merges[i];
      float* out = head_of(planned.token, planned.kv_head);
      attention_.merge(shape_, space_.partials + planned.slot * slot_floats, planned.partitions,
                       mine.attention, out);
      if (whole) round_part(out, planned.token, planned.kv_head * width, width, rounded);
    }
  }
  if (!whole) {
    meet(Part::attention, thread, clock);
    const Share rows = share_of(batch_->tokens, thread, pool_.size());
    for (int m = rows.begin; m < rows.end; ++m) round_row(head_of(m, 0), m, rounded);
  }
  fetch_share(weights_.layers[layer].o, thread);
  meet(Part::attention, thread, clock);
}

}  // namespace stoker
