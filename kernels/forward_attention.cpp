// Attention in a layer: rotary embedding, the cache, and the items of the plan.
#include "forward.h"

namespace stoker {

// Head norms, rotary embedding, and the new keys and values into the cache.
void Forward::rotate_and_write(int layer, int thread) {
  const LayerWeights& w = weights_.layers[layer];
  const int dim = config_.head_dim, group = config_.group();
  const int rope = config_.layers[layer].rope;
  const auto turn = [&](float* head, const Vector& norm, int position) {
    if (config_.head_norm) ops_.rms_norm(head, norm.data(), config_.norm_eps, dim, head);
    if (rope >= 0)
      ops_.rope(head, ropes_[rope].cosines(position), ropes_[rope].sines(position),
                ropes_[rope].half());
  };
  const Share items = share_of(batch_->tokens * config_.num_kv_heads, thread, pool_.size());
  for (int item = items.begin; item < items.end; ++item) {
    const int m = item / config_.num_kv_heads, h = item % config_.num_kv_heads;
    const int position = space_.positions[m];
    float* row = space_.qkv + static_cast<ptrdiff_t>(m) * config_.qkv_size();
    for (int g = 0; g < group; ++g) turn(row + (h * group + g) * dim, w.q_norm, position);
    float* k = row + config_.q_size() + h * dim;
    turn(k, w.k_norm, position);
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
      round_part(q, config_.qkv_size(), planned.first_token, planned.queries,
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
      if (whole) round_part(out, 0, planned.token, 1, planned.kv_head * width, width, rounded);
    }
  }
  if (!whole) {
    meet(Part::attention, thread, clock);
    const Share rows = share_of(batch_->tokens, thread, pool_.size());
    for (int m = rows.begin; m < rows.end; ++m) round_row(head_of(m, 0), m, rounded);
  }
  meet(Part::attention, thread, clock);
}

}  // namespace stoker
