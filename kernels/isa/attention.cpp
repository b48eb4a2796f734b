// Paged attention (see attention.h for the layout and the order of the arithmetic).
#include "attention.h"

#include "attention_tiles.h"

namespace stoker::STOKER_ISA {
extern const AttentionKernels attention_kernels;
namespace {

constexpr int kChunkBlocks = 8;   // blocks of the cache that all rows of an item pass over together

// An item's scratch memory.
struct Scratch {
  float* scores;      // [rows][256]
  uint32_t* weights;  // [rows][256 / step] probabilities, as words
  uint32_t* q;        // [tile][head_dim / step][rows of the tile]
  float* out;         // [rows][padded_dim] merged so far
  float* part;        // [rows][padded_dim] of one partition
  float* max;         // [rows] merged so far
  float* sum;
  float* part_max;    // [rows] of one partition
  float* part_sum;
  float* q_scale;     // [rows] what products with the packed query are to be multiplied with
  float* part_scale;  // [rows] likewise of one partition's weighted values
};

Scratch lay_out(const AttentionShape& shape, void* memory) {
  const int rows = kItemRows > shape.group ? kItemRows : shape.group;
  Scratch s;
  float* next = static_cast<float*>(memory);
  s.scores = next;
  next += rows * kPartitionTokens;
  s.weights = reinterpret_cast<uint32_t*>(next);
  next += rows * kPartitionTokens;
  s.q = reinterpret_cast<uint32_t*>(next);
  next += rows * shape.head_dim;
  s.out = next;
  next += rows * shape.padded_dim;
  s.part = next;
  next += rows * shape.padded_dim;
  s.max = next;
  s.sum = next + rows;
  s.part_max = next + 2 * rows;
  s.part_sum = next + 3 * rows;
  s.q_scale = next + 4 * rows;
  s.part_scale = next + 5 * rows;
  return s;
}

constexpr float kLog2E = 1.44269504f;

// Turns a row's scores of the visible tokens of a partition into weights 2^(score · log2 e - max),
// as words, zero for the other tokens of the blocks touched. 8-bit values have a scale for each
// token, which goes into its weight; the weights are then rounded to integers, and *part_scale is
// what the sums of values are to be multiplied with.
template <KVType kType>
STOKER_INLINE void softmax_row(const AttentionShape& shape, const Blocks& blocks, float q_scale,
                               Visible visible, float* scores, uint32_t* weights, float* row_max,
                               float* row_sum, float* part_scale) {
  const int first = visible.begin / kBlockTokens, last = (visible.end - 1) / kBlockTokens;
  const Vec hidden = splat(-__builtin_inff()), zero = splat(0.0f);
  const auto at = [&](int b) { return scores + b * kBlockTokens; };
  // Only the first and the last block may hold tokens that are not seen.
  const int last_end = visible.end - last * kBlockTokens;
  const Mask seen_first = lanes_between(visible.begin - first * kBlockTokens,
                                        first < last ? kBlockTokens : last_end);
  const Mask seen_last =
      lanes_between(first < last ? 0 : visible.begin - first * kBlockTokens, last_end);

  Vec scale = splat(shape.scale * kLog2E);
  if (kType == KVType::int8 || shape.softcap > 0) {
    for (int b = first; b <= last; ++b) {
      Vec x = load(at(b)) * splat(q_scale * shape.scale);
      if constexpr (kType == KVType::int8) x = x * load(blocks.key_scales[b]);
      if (shape.softcap > 0) x = splat(shape.softcap) * tanh(x / splat(shape.softcap));
      store(at(b), x * splat(kLog2E));
    }
    scale = splat(1.0f);
  }
  const auto scaled = [&](int b) { return load(at(b)) * scale; };
  Vec top = max(select(seen_first, scaled(first), hidden), select(seen_last, scaled(last), hidden));
  for (int b = first + 1; b < last; ++b) top = max(scaled(b), top);
  const float maximum = reduce_max(top);

  const Vec below = splat(-maximum);
  const auto power = [&](int b) {
    const Vec x = fma(load(at(b)), scale, below);
    return kType == KVType::fp32 ? exp2(x) : exp2_rough(x);
  };
  Vec top_weight = zero, weight_sum = zero;
  // Stores the weights of a block and returns what they add to the sum.
  const auto weigh = [&](int b, Vec p, Mask seen) {
    if constexpr (kType == KVType::bf16) {
      // The sum is of what is multiplied.
      p = store_rounded(reinterpret_cast<uint16_t*>(weights) + b * kBlockTokens, p);
    } else if constexpr (kType == KVType::fp32) {
      store_words(weights + b * kBlockTokens, as_words(p));
    } else {
      const Vec weight = select(seen, p * load(blocks.value_scales[b]), zero);
      top_weight = max(weight, top_weight);
      weight_sum = weight_sum + weight;
      store(at(b), weight);
    }
    return p;
  };
  const Mask all = lanes_between(0, kBlockTokens);
  Vec sum = weigh(first, select(seen_first, power(first), zero), seen_first);
  for (int b = first + 1; b < last; ++b) sum = sum + weigh(b, power(b), all);
  if (first < last) sum = sum + weigh(last, select(seen_last, power(last), zero), seen_last);
  *row_max = maximum;
  *row_sum = reduce_add(sum);
  *part_scale = 1.0f;
  if constexpr (kType == KVType::int8) {
    const Rounding rounding = rounding_to(reduce_max(top_weight), Element<kType>::kMostWeight);
    for (int b = first; b <= last; ++b)
      store_u16(reinterpret_cast<uint16_t*>(weights) + b * kBlockTokens,
                round_to_int(load(at(b)) * splat(rounding.inverse)));
    // A value that is not a number shows in the sum, if in nothing else.
    const float total = reduce_add(weight_sum);
    *part_scale = rounding.scale + (total - total);
  }
}

// Adds one partition's result of a row to what is merged so far.
STOKER_INLINE void merge_row(float part_max, float part_sum, const float* part, int padded,
                             float* row_max, float* row_sum, float* out) {
  // A NaN in either stays.
  const float top = part_max > *row_max ? part_max : *row_max;
  float keep_lanes[kLanes], gain_lanes[kLanes];
  const Vec keep = exp2(splat(*row_max - top)), gain = exp2(splat(part_max - top));
  store(keep_lanes, keep);
  store(gain_lanes, gain);
  *row_sum = __builtin_fmaf(part_sum, gain_lanes[0], *row_sum * keep_lanes[0]);
  *row_max = top;
  for (int d = 0; d < padded; d += kLanes)
    store(out + d, fma(load(part + d), gain, load(out + d) * keep));
}

STOKER_INLINE void finish_row(const float* sums, float total, int head_dim, float* out) {
  const Vec inverse = splat(1.0f / total);
  int d = 0;
  for (; d + kLanes <= head_dim; d += kLanes) store(out + d, load(sums + d) * inverse);
  if (d < head_dim) store_first(out + d, load(sums + d) * inverse, head_dim - d);
}

struct BlockRange {
  int begin, end;
};

// The blocks of a partition that some of `count` rows see.
STOKER_INLINE BlockRange blocks_seen(const Visible* visible, int count) {
  int from = kPartitionTokens, to = 0;
  for (int r = 0; r < count; ++r) {
    if (visible[r].begin == visible[r].end) continue;
    if (visible[r].begin < from) from = visible[r].begin;
    if (visible[r].end > to) to = visible[r].end;
  }
  return {from / kBlockTokens, (to + kBlockTokens - 1) / kBlockTokens};
}

// A whole partition for all rows of an item: maxima, sums and weighted values, not yet merged.
template <KVType kType>
void attend_partition(const AttentionShape& shape, const AttentionItem& item, int partition,
                      const Scratch& s, Visible* visible) {
  using E = Element<kType>;
  const int steps = shape.head_dim / E::kStep, padded = shape.padded_dim;
  const int rows = item.queries * shape.group, start = partition * kPartitionTokens;

  for (int r = 0; r < rows; ++r) {
    const int position = item.first_position + r / shape.group;
    int begin = item.window > 0 ? position - item.window + 1 - start : -start;
    int end = position + 1 - start;
    if (begin < 0) begin = 0;
    if (end > kPartitionTokens) end = kPartitionTokens;
    if (end < begin) begin = end = 0;
    visible[r] = {begin, end};
  }

  Blocks blocks;
  const auto [first_block, end_block] = blocks_seen(visible, rows);
  for (int b = first_block; b < end_block; ++b) {
    const uint8_t* block =
        item.cache +
        static_cast<size_t>(item.block_table[partition * kPartitionBlocks + b]) * item.block_stride;
    blocks.keys[b] = block;
    blocks.values[b] = block + shape.value_offset;
    if constexpr (kType == KVType::int8) {
      blocks.key_scales[b] = reinterpret_cast<const float*>(block + shape.key_scale_offset);
      blocks.value_scales[b] = reinterpret_cast<const float*>(block + shape.value_scale_offset);
    }
  }

  // A few blocks of keys, then of values, serve all rows while they are in the nearest cache.
  for (int chunk = first_block; chunk < end_block; chunk += kChunkBlocks) {
    const int chunk_end = chunk + kChunkBlocks < end_block ? chunk + kChunkBlocks : end_block;
    for (int tile = 0; tile < rows; tile += kRowTile) {
      const int count = rows - tile < kRowTile ? rows - tile : kRowTile;
      const BlockRange seen = blocks_seen(visible + tile, count);
      score<kType>(count, s.q + static_cast<ptrdiff_t>(tile) * steps, blocks,
                   seen.begin > chunk ? seen.begin : chunk,
                   seen.end < chunk_end ? seen.end : chunk_end, steps, item.queries == 1,
                   s.scores + tile * kPartitionTokens);
    }
  }
  for (int r = 0; r < rows; ++r) {
    s.part_max[r] = -__builtin_inff();
    s.part_sum[r] = s.part_scale[r] = 0.0f;
    for (int d = 0; d < padded; d += kLanes) store(s.part + r * padded + d, splat(0.0f));
    if (visible[r].begin < visible[r].end)
      softmax_row<kType>(shape, blocks, s.q_scale[r], visible[r], s.scores + r * kPartitionTokens,
                         s.weights + r * (kPartitionTokens / E::kStep), &s.part_max[r],
                         &s.part_sum[r], &s.part_scale[r]);
  }
  for (int chunk = first_block; chunk < end_block; chunk += kChunkBlocks) {
    const int begin = chunk * kBlockTokens, end = begin + kChunkBlocks * kBlockTokens;
    Visible here[kMaxGroup];
    for (int r = 0; r < rows; ++r) {
      here[r].begin = visible[r].begin > begin ? visible[r].begin : begin;
      here[r].end = visible[r].end < end ? visible[r].end : end;
      if (here[r].begin >= here[r].end) here[r] = {begin, begin};
    }
    weigh_values<kType>(rows, s.weights, blocks.values, padded, here, s.part);
  }
  if constexpr (kType == KVType::int8)
    for (int r = 0; r < rows; ++r)
      for (int d = r * padded; d < (r + 1) * padded; d += kLanes)
        store(s.part + d, E::value(E::load_sum(s.part + d)) * splat(s.part_scale[r]));
}

template <KVType kType>
void attend_typed(const AttentionShape& shape, const AttentionItem& item, void* memory) {
  using E = Element<kType>;
  const Scratch s = lay_out(shape, memory);
  const int steps = shape.head_dim / E::kStep, padded = shape.padded_dim, group = shape.group;
  const int rows = item.queries * group;

  for (int i = 1; i < item.queries; ++i)
    for (int d = 0; d < group * shape.head_dim; d += kLanes)
      __builtin_prefetch(item.q + i * item.q_stride + d, 1);
  for (int tile = 0; tile < rows; tile += kRowTile) {
    const int count = rows - tile < kRowTile ? rows - tile : kRowTile;
    uint32_t* packed = s.q + static_cast<ptrdiff_t>(tile) * steps;
    for (int r = 0; r < count; ++r) {
      const float* q = item.q + (tile + r) / group * item.q_stride +
                       static_cast<ptrdiff_t>((tile + r) % group) * shape.head_dim;
      const uint32_t* words = E::pack_query(q, shape.head_dim, s.part, &s.q_scale[tile + r]);
      for (int i = 0; i < steps; ++i) packed[i * count + r] = words[i];
    }
  }

  Visible visible[kMaxGroup];
  if (item.partial) {
    attend_partition<kType>(shape, item, item.partition, s, visible);
    for (int r = 0; r < rows; ++r) {
      float* part = item.partial + r * partial_floats(shape);
      part[0] = s.part_max[r];
      part[1] = s.part_sum[r];
      for (int d = 0; d < padded; d += kLanes)
        store(part + kBlockTokens + d, load(s.part + r * padded + d));
    }
    return;
  }

  for (int r = 0; r < rows; ++r) {
    s.max[r] = -__builtin_inff();
    s.sum[r] = 0.0f;
    for (int d = 0; d < padded; d += kLanes) store(s.out + r * padded + d, splat(0.0f));
  }
  const int first = visible_partitions(item.first_position, item.window).begin;
  const int end = visible_partitions(item.first_position + item.queries - 1, item.window).end;
  for (int partition = first; partition < end; ++partition) {
    attend_partition<kType>(shape, item, partition, s, visible);
    for (int r = 0; r < rows; ++r)
      if (visible[r].begin < visible[r].end)
        merge_row(s.part_max[r], s.part_sum[r], s.part + r * padded, padded, &s.max[r], &s.sum[r],
                  s.out + r * padded);
  }
  for (int r = 0; r < rows; ++r)
    finish_row(s.out + r * padded, s.sum[r], shape.head_dim,
               item.out + r / group * item.out_stride +
                   static_cast<ptrdiff_t>(r % group) * shape.head_dim);
}

void attend(const AttentionShape& shape, const AttentionItem& item, void* scratch) {
  switch (shape.type) {
    case KVType::bf16: return attend_typed<KVType::bf16>(shape, item, scratch);
    case KVType::fp32: return attend_typed<KVType::fp32>(shape, item, scratch);
    case KVType::int8: return attend_typed<KVType::int8>(shape, item, scratch);
  }
}

void merge(const AttentionShape& shape, const float* partials, int partitions, void* scratch,
           float* out) {
  const Scratch s = lay_out(shape, scratch);
  const size_t row_floats = partial_floats(shape);
  for (int r = 0; r < shape.group; ++r) {
    s.max[0] = -__builtin_inff();
    s.sum[0] = 0.0f;
    for (int d = 0; d < shape.padded_dim; d += kLanes) store(s.out + d, splat(0.0f));
    for (int p = 0; p < partitions; ++p) {
      const float* part = partials + (static_cast<size_t>(p) * shape.group + r) * row_floats;
      merge_row(part[0], part[1], part + kBlockTokens, shape.padded_dim, s.max, s.sum, s.out);
    }
    finish_row(s.out, s.sum[0], shape.head_dim, out + static_cast<ptrdiff_t>(r) * shape.head_dim);
  }
}

void write(const AttentionShape& shape, uint8_t* head_block, int slot, const float* k,
           const float* v) {
  switch (shape.type) {
    case KVType::bf16: return write_element<KVType::bf16>(shape, head_block, slot, k, v);
    case KVType::fp32: return write_element<KVType::fp32>(shape, head_block, slot, k, v);
    case KVType::int8: return write_bytes(shape, head_block, slot, k, v);
  }
}

}  // namespace

const AttentionKernels attention_kernels{.write = write, .attend = attend, .merge = merge};

}  // namespace stoker::STOKER_ISA
