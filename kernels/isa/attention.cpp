// Paged attention (see attention.h for the layout and the order of the arithmetic).
#include "attention.h"

#include "simd.h"

namespace stoker::STOKER_ISA {
extern const AttentionKernels attention_kernels;
namespace {

#if defined(STOKER_SIMD_512)
constexpr int kRowTile = 8;     // rows whose scores are computed together
constexpr int kValueRows = 4;   // rows × vectors of values summed together
constexpr int kValueVecs = 4;
#else
constexpr int kRowTile = 4;
constexpr int kValueRows = 2;
constexpr int kValueVecs = 2;
#endif

// One word of each lane, multiplied and added: float32, or a pair of bfloat16.
template <KVType kType>
struct Element;
template <>
struct Element<KVType::bf16> {
  static constexpr int kStep = 2;
  STOKER_INLINE Vec dot(Vec acc, Words a, Words b) { return dot_pairs(acc, a, b); }
  STOKER_INLINE uint32_t pack(const float* x) {
    return float_to_bf16(x[0]) | static_cast<uint32_t>(float_to_bf16(x[1])) << 16;
  }
};
template <>
struct Element<KVType::fp32> {
  static constexpr int kStep = 1;
  STOKER_INLINE Vec dot(Vec acc, Words a, Words b) { return fma(as_floats(a), as_floats(b), acc); }
  STOKER_INLINE uint32_t pack(const float* x) { return float_bits(x[0]); }
};

// An item's scratch memory.
struct Scratch {
  float* scores;      // [rows of a tile → up to all][256]
  uint32_t* weights;  // [rows][256 / step] probabilities, as words
  uint32_t* q;        // [tile][head_dim / step][rows of the tile]
  float* out;         // [rows][padded_dim] merged so far
  float* part;        // [rows][padded_dim] of one partition
  float* max;         // [rows] merged so far
  float* sum;
  float* part_max;    // [rows] of one partition
  float* part_sum;
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
  return s;
}

// scores[r][16 b + t] = q_r · k of token t of block b, for R rows and B blocks.
template <KVType kType, int R, int B>
STOKER_INLINE void score_tile(const uint32_t* q, const uint32_t* const* keys, int steps,
                              float* scores) {
  using E = Element<kType>;
  Vec acc[R][B];
  for (int r = 0; r < R; ++r)
    for (int b = 0; b < B; ++b) acc[r][b] = splat(0.0f);
  for (int i = 0; i < steps; ++i) {
    Words k[B];
    for (int b = 0; b < B; ++b) k[b] = load_words(keys[b] + i * kBlockTokens);
    for (int r = 0; r < R; ++r) {
      const Words x = splat_word(q[i * R + r]);
      for (int b = 0; b < B; ++b) acc[r][b] = E::dot(acc[r][b], x, k[b]);
    }
  }
  for (int r = 0; r < R; ++r)
    for (int b = 0; b < B; ++b) store(scores + r * kPartitionTokens + b * kBlockTokens, acc[r][b]);
}

template <KVType kType, int R>
void score_rows(const uint32_t* q, const uint32_t* const* keys, int begin, int end, int steps,
                float* scores) {
#if defined(STOKER_SIMD_512)
  constexpr int kBlocks = R <= 4 ? 4 : 2;
#else
  constexpr int kBlocks = R <= 2 ? 2 : 1;
#endif
  int b = begin;
  for (; b + kBlocks <= end; b += kBlocks)
    score_tile<kType, R, kBlocks>(q, keys + b, steps, scores + b * kBlockTokens);
  for (; b < end; ++b) score_tile<kType, R, 1>(q, keys + b, steps, scores + b * kBlockTokens);
}

// For R rows (1 … kRowTile) whose packed queries lie at q.
template <KVType kType>
void score(int rows, const uint32_t* q, const uint32_t* const* keys, int begin, int end, int steps,
           float* scores) {
  switch (rows) {
    case 1: return score_rows<kType, 1>(q, keys, begin, end, steps, scores);
    case 2: return score_rows<kType, 2>(q, keys, begin, end, steps, scores);
    case 3: return score_rows<kType, 3>(q, keys, begin, end, steps, scores);
    case 4: return score_rows<kType, 4>(q, keys, begin, end, steps, scores);
#if defined(STOKER_SIMD_512)
    case 5: return score_rows<kType, 5>(q, keys, begin, end, steps, scores);
    case 6: return score_rows<kType, 6>(q, keys, begin, end, steps, scores);
    case 7: return score_rows<kType, 7>(q, keys, begin, end, steps, scores);
    case 8: return score_rows<kType, 8>(q, keys, begin, end, steps, scores);
#endif
  }
}

// Turns a row's scores of the visible tokens [begin, end) of a partition into weights
// e^(score - max), zero for the other tokens of the blocks touched.
template <KVType kType>
STOKER_INLINE void softmax_row(const AttentionShape& shape, float* scores, int begin, int end,
                               uint32_t* weights, float* row_max, float* row_sum) {
  const int first = begin / kBlockTokens, last = (end - 1) / kBlockTokens;
  const Vec scale = splat(shape.scale), hidden = splat(-__builtin_inff());
  Vec top = hidden;
  for (int b = first; b <= last; ++b) {
    float* s = scores + b * kBlockTokens;
    Vec x = load(s) * scale;
    if (shape.softcap > 0) x = splat(shape.softcap) * tanh(x / splat(shape.softcap));
    const int from = begin - b * kBlockTokens, to = end - b * kBlockTokens;
    if (from > 0 || to < kBlockTokens)
      x = select(lanes_between(from > 0 ? from : 0, to < kBlockTokens ? to : kBlockTokens), x,
                 hidden);
    store(s, x);
    top = max(x, top);
  }
  const float maximum = reduce_max(top);
  Vec sum = splat(0.0f);
  for (int b = first; b <= last; ++b) {
    Vec p = exp(load(scores + b * kBlockTokens) - splat(maximum));
    if constexpr (kType == KVType::bf16) {
      const Words rounded = round_bf16(p);
      store_u16(reinterpret_cast<uint16_t*>(weights) + b * kBlockTokens, rounded);
      p = as_floats(shift_left<16>(rounded));  // the sum is of what is multiplied
    } else {
      store_words(weights + b * kBlockTokens, as_words(p));
    }
    sum = sum + p;
  }
  *row_max = maximum;
  *row_sum = reduce_add(sum);
}

// out[r][16 v …] += Σ weights[r][t] · values[t], tokens [begin, end) in ascending order; both are
// multiples of the step.
template <KVType kType, int R, int V>
STOKER_INLINE void value_tile(const uint32_t* weights, const uint32_t* const* values, int padded,
                              int begin, int end, float* out) {
  using E = Element<kType>;
  constexpr int kWords = kPartitionTokens / E::kStep, kBlockWords = kBlockTokens / E::kStep;
  Vec acc[R][V];
  for (int r = 0; r < R; ++r)
    for (int v = 0; v < V; ++v) acc[r][v] = load(out + r * padded + v * kLanes);
  for (int i = begin / E::kStep; i < end / E::kStep;) {
    const uint32_t* block = values[i / kBlockWords];
    int stop = (i / kBlockWords + 1) * kBlockWords;
    if (stop > end / E::kStep) stop = end / E::kStep;
    for (const int base = i / kBlockWords * kBlockWords; i < stop; ++i) {
      Words x[V];
      for (int v = 0; v < V; ++v) x[v] = load_words(block + (i - base) * padded + v * kLanes);
      for (int r = 0; r < R; ++r) {
        const Words w = splat_word(weights[r * kWords + i]);
        for (int v = 0; v < V; ++v) acc[r][v] = E::dot(acc[r][v], w, x[v]);
      }
    }
  }
  for (int r = 0; r < R; ++r)
    for (int v = 0; v < V; ++v) store(out + r * padded + v * kLanes, acc[r][v]);
}

template <KVType kType, int R>
void value_rows(const uint32_t* weights, const uint32_t* const* values, int padded, int begin,
                int end, float* out) {
  const uint32_t* shifted[kPartitionBlocks];
  const int first = begin / kBlockTokens, last = (end - 1) / kBlockTokens;
  int d = 0;
  for (; d + kValueVecs * kLanes <= padded; d += kValueVecs * kLanes) {
    for (int b = first; b <= last; ++b) shifted[b] = values[b] + d;
    value_tile<kType, R, kValueVecs>(weights, shifted, padded, begin, end, out + d);
  }
  for (; d < padded; d += kLanes) {
    for (int b = first; b <= last; ++b) shifted[b] = values[b] + d;
    value_tile<kType, R, 1>(weights, shifted, padded, begin, end, out + d);
  }
}

// One token whose partner in the word must not be read: it may never have been written, and zero
// times what lies there need not be zero.
STOKER_INLINE void add_half(const uint32_t* weights, const uint32_t* const* values, int padded,
                            int token, float* out) {
  const uint32_t* v = values[token / kBlockTokens] + token % kBlockTokens / 2 * padded;
  const uint32_t keep = token % 2 ? 0xffff0000u : 0xffffu;
  const Words w = splat_word(weights[token / 2] & keep);
  for (int d = 0; d < padded; d += kLanes)
    store(out + d, dot_pairs(load(out + d), w, load_words(v + d) & splat_word(keep)));
}

// One row, tokens [begin, end) of the partition.
template <KVType kType>
STOKER_INLINE void value_row(const uint32_t* weights, const uint32_t* const* values, int padded,
                             int begin, int end, float* out) {
  if constexpr (kType == KVType::bf16) {
    if (begin < end && begin % 2) add_half(weights, values, padded, begin++, out);
    const int even = end / 2 * 2;
    if (begin < even) value_rows<kType, 1>(weights, values, padded, begin, even, out);
    if (begin < end && end % 2) add_half(weights, values, padded, end - 1, out);
  } else {
    if (begin < end) value_rows<kType, 1>(weights, values, padded, begin, end, out);
  }
}

struct Visible {
  int begin, end;  // tokens, relative to the partition
};

// All rows of a tile: the tokens that all of them see together, those before and after by row.
template <KVType kType, int R>
void value_group(const uint32_t* weights, const uint32_t* const* values, int padded,
                 const Visible* visible, float* out) {
  constexpr int kStep = Element<kType>::kStep, kWords = kPartitionTokens / kStep;
  int from = 0, to = kPartitionTokens;
  for (int r = 0; r < R; ++r) {
    if (visible[r].begin > from) from = visible[r].begin;
    if (visible[r].end < to) to = visible[r].end;
  }
  from = (from + kStep - 1) / kStep * kStep;
  to = to / kStep * kStep;
  if (from >= to) from = to = kPartitionTokens;  // nothing in common: all of it by row
  for (int r = 0; r < R; ++r)
    value_row<kType>(weights + r * kWords, values, padded, visible[r].begin,
                     visible[r].end < from ? visible[r].end : from, out + r * padded);
  if (from < to) {
    value_rows<kType, R>(weights, values, padded, from, to, out);
    for (int r = 0; r < R; ++r)
      value_row<kType>(weights + r * kWords, values, padded, to, visible[r].end, out + r * padded);
  }
}

template <KVType kType>
STOKER_INLINE void weigh_values(int rows, const uint32_t* weights, const uint32_t* const* values,
                                int padded, const Visible* visible, float* out) {
  constexpr int kWords = kPartitionTokens / Element<kType>::kStep;
  int r = 0;
  for (; r + kValueRows <= rows; r += kValueRows)
    value_group<kType, kValueRows>(weights + r * kWords, values, padded, visible + r,
                                   out + r * padded);
#if defined(STOKER_SIMD_512)
  if (r + 3 <= rows) {
    value_group<kType, 3>(weights + r * kWords, values, padded, visible + r, out + r * padded);
    r += 3;
  }
  if (r + 2 <= rows) {
    value_group<kType, 2>(weights + r * kWords, values, padded, visible + r, out + r * padded);
    r += 2;
  }
#endif
  for (; r < rows; ++r)
    value_row<kType>(weights + r * kWords, values, padded, visible[r].begin, visible[r].end,
                     out + r * padded);
}

// Adds one partition's result of a row to what is merged so far.
STOKER_INLINE void merge_row(float part_max, float part_sum, const float* part, int padded,
                             float* row_max, float* row_sum, float* out) {
  // A NaN in either stays.
  const float top = part_max > *row_max ? part_max : *row_max;
  float factors[2];
  {
    float x[kLanes] = {*row_max - top, part_max - top};
    store(x, exp(load(x)));
    factors[0] = x[0];
    factors[1] = x[1];
  }
  const Vec keep = splat(factors[0]), gain = splat(factors[1]);
  *row_sum = __builtin_fmaf(part_sum, factors[1], *row_sum * factors[0]);
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

// A whole partition for all rows of an item: maxima, sums and weighted values, not yet merged.
template <KVType kType>
void attend_partition(const AttentionShape& shape, const AttentionItem& item, int partition,
                      const Scratch& s, Visible* visible) {
  using E = Element<kType>;
  const int steps = shape.head_dim / E::kStep, padded = shape.padded_dim;
  const int rows = item.queries * shape.group, start = partition * kPartitionTokens;

  int from = kPartitionTokens, to = 0;
  for (int r = 0; r < rows; ++r) {
    const int position = item.first_position + r / shape.group;
    int begin = item.window > 0 ? position - item.window + 1 - start : -start;
    int end = position + 1 - start;
    if (begin < 0) begin = 0;
    if (end > kPartitionTokens) end = kPartitionTokens;
    if (end < begin) begin = end = 0;
    visible[r] = {begin, end};
    if (begin < end) {
      if (begin < from) from = begin;
      if (end > to) to = end;
    }
  }

  const uint32_t* keys[kPartitionBlocks];
  const uint32_t* values[kPartitionBlocks];
  const int first_block = from / kBlockTokens, end_block = (to + kBlockTokens - 1) / kBlockTokens;
  for (int b = first_block; b < end_block; ++b) {
    const uint8_t* block =
        item.cache +
        static_cast<size_t>(item.block_table[partition * kPartitionBlocks + b]) * item.block_stride;
    keys[b] = reinterpret_cast<const uint32_t*>(block);
    values[b] = reinterpret_cast<const uint32_t*>(block + shape.value_offset);
  }

  for (int tile = 0; tile < rows; tile += kRowTile) {
    const int count = rows - tile < kRowTile ? rows - tile : kRowTile;
    int tile_from = kPartitionTokens, tile_to = 0;
    for (int r = tile; r < tile + count; ++r) {
      if (visible[r].begin == visible[r].end) continue;
      if (visible[r].begin < tile_from) tile_from = visible[r].begin;
      if (visible[r].end > tile_to) tile_to = visible[r].end;
    }
    for (int r = tile; r < tile + count; ++r) {
      s.part_max[r] = -__builtin_inff();
      s.part_sum[r] = 0.0f;
      for (int d = 0; d < padded; d += kLanes) store(s.part + r * padded + d, splat(0.0f));
    }
    if (tile_from >= tile_to) continue;
    score<kType>(count, s.q + static_cast<ptrdiff_t>(tile) * steps, keys, tile_from / kBlockTokens,
                 (tile_to + kBlockTokens - 1) / kBlockTokens, steps, s.scores);
    for (int r = tile; r < tile + count; ++r)
      if (visible[r].begin < visible[r].end)
        softmax_row<kType>(shape, s.scores + (r - tile) * kPartitionTokens, visible[r].begin,
                           visible[r].end,
                           s.weights + (r - tile) * (kPartitionTokens / E::kStep), &s.part_max[r],
                           &s.part_sum[r]);
    weigh_values<kType>(count, s.weights, values, padded, visible + tile, s.part + tile * padded);
  }
}

template <KVType kType>
void attend_typed(const AttentionShape& shape, const AttentionItem& item, void* memory) {
  using E = Element<kType>;
  const Scratch s = lay_out(shape, memory);
  const int steps = shape.head_dim / E::kStep, padded = shape.padded_dim, group = shape.group;
  const int rows = item.queries * group;

  for (int tile = 0; tile < rows; tile += kRowTile) {
    const int count = rows - tile < kRowTile ? rows - tile : kRowTile;
    for (int r = 0; r < count; ++r) {
      const float* q = item.q + (tile + r) / group * item.q_stride +
                       static_cast<ptrdiff_t>((tile + r) % group) * shape.head_dim;
      for (int i = 0; i < steps; ++i)
        s.q[(static_cast<ptrdiff_t>(tile) * steps) + i * count + r] = E::pack(q + i * E::kStep);
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
  if (shape.type == KVType::bf16)
    attend_typed<KVType::bf16>(shape, item, scratch);
  else
    attend_typed<KVType::fp32>(shape, item, scratch);
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

template <KVType kType>
void write_typed(const AttentionShape& shape, uint8_t* head_block, int slot, const float* k,
                 const float* v) {
  using E = Element<kType>;
  auto* keys = reinterpret_cast<uint32_t*>(head_block);
  for (int i = 0; i < shape.head_dim / E::kStep; ++i)
    keys[i * kBlockTokens + slot] = E::pack(k + i * E::kStep);
  if constexpr (kType == KVType::bf16) {
    auto* values = reinterpret_cast<uint16_t*>(head_block + shape.value_offset) +
                   static_cast<ptrdiff_t>(slot / 2) * 2 * shape.padded_dim + slot % 2;
    for (int d = 0; d < shape.head_dim; ++d) values[2 * d] = float_to_bf16(v[d]);
  } else {
    auto* values = reinterpret_cast<float*>(head_block + shape.value_offset) +
                   static_cast<ptrdiff_t>(slot) * shape.padded_dim;
    for (int d = 0; d < shape.head_dim; ++d) values[d] = v[d];
  }
}

void write(const AttentionShape& shape, uint8_t* head_block, int slot, const float* k,
           const float* v) {
  if (shape.type == KVType::bf16)
    write_typed<KVType::bf16>(shape, head_block, slot, k, v);
  else
    write_typed<KVType::fp32>(shape, head_block, slot, k, v);
}

}  // namespace

const AttentionKernels attention_kernels{.write = write, .attend = attend, .merge = merge};

}  // namespace stoker::STOKER_ISA
