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
constexpr int kChunkBlocks = 8;   // blocks of the cache that all rows of an item pass over together

// One word of each lane, multiplied and added: float32, or a pair of bfloat16.
template <KVType kType>
struct Element;
template <>
struct Element<KVType::bf16> {
  static constexpr int kStep = 2;
  STOKER_INLINE Vec dot(Vec acc, Words a, Words b) { return dot_pairs(acc, a, b); }
  // n numbers as words; `scratch` holds as many floats, rounded up to 16.
  STOKER_INLINE const uint32_t* pack_row(const float* x, int n, float* scratch) {
    auto* halves = reinterpret_cast<uint16_t*>(scratch);
    int i = 0;
    for (; i + kLanes <= n; i += kLanes) store_bf16(halves + i, load(x + i));
    if (i < n) store_bf16(halves + i, load_first(x + i, n - i));
    return reinterpret_cast<const uint32_t*>(scratch);
  }
};
template <>
struct Element<KVType::fp32> {
  static constexpr int kStep = 1;
  STOKER_INLINE Vec dot(Vec acc, Words a, Words b) { return fma(as_floats(a), as_floats(b), acc); }
  STOKER_INLINE const uint32_t* pack_row(const float* x, int, float*) {
    return reinterpret_cast<const uint32_t*>(x);
  }
};

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

// Where the keys and values of a partition's blocks lie.
struct Blocks {
  const uint32_t* keys[kPartitionBlocks];
  const uint32_t* values[kPartitionBlocks];
};

// scores[r][16 b + t] = q_r · k of token t of block b, for R rows and B blocks from `first` on.
// A lone query waits for memory more than it computes: with `fetch`, the values of these blocks
// and the keys of the next ones are on their way meanwhile.
template <KVType kType, int R, int B>
STOKER_INLINE void score_tile(const uint32_t* q, const Blocks& blocks, int first, int end,
                              int steps, bool fetch, float* scores) {
  using E = Element<kType>;
  const uint32_t *keys[B], *next[B], *values[B];
  for (int b = 0; b < B; ++b) {
    keys[b] = blocks.keys[first + b];
    values[b] = blocks.values[first + b];
    next[b] = blocks.keys[first + B + b < end ? first + B + b : end - 1];
  }
  Vec acc[R][B];
  for (int r = 0; r < R; ++r)
    for (int b = 0; b < B; ++b) acc[r][b] = splat(0.0f);
  for (int i = 0; i < steps; ++i) {
    Words k[B];
    for (int b = 0; b < B; ++b) k[b] = load_words(keys[b] + i * kBlockTokens);
    if (fetch)
      for (int b = 0; b < B; ++b) {
        __builtin_prefetch(next[b] + i * kBlockTokens);
        __builtin_prefetch(values[b] + i * kBlockTokens);
      }
    for (int r = 0; r < R; ++r) {
      const Words x = splat_word(q[i * R + r]);
      for (int b = 0; b < B; ++b) acc[r][b] = E::dot(acc[r][b], x, k[b]);
    }
  }
  for (int r = 0; r < R; ++r)
    for (int b = 0; b < B; ++b)
      store(scores + r * kPartitionTokens + (first + b) * kBlockTokens, acc[r][b]);
}

template <KVType kType, int R>
void score_rows(const uint32_t* q, const Blocks& blocks, int begin, int end, int steps, bool fetch,
                float* scores) {
#if defined(STOKER_SIMD_512)
  constexpr int kBlocks = R <= 4 ? 4 : 2;
#else
  constexpr int kBlocks = R <= 2 ? 2 : 1;
#endif
  int b = begin;
  if (fetch)
    for (; b + kBlocks <= end; b += kBlocks)
      score_tile<kType, R, kBlocks>(q, blocks, b, end, steps, true, scores);
  else
    for (; b + kBlocks <= end; b += kBlocks)
      score_tile<kType, R, kBlocks>(q, blocks, b, end, steps, false, scores);
  for (; b < end; ++b) score_tile<kType, R, 1>(q, blocks, b, end, steps, fetch, scores);
}

// For R rows (1 … kRowTile) whose packed queries lie at q.
template <KVType kType>
void score(int rows, const uint32_t* q, const Blocks& blocks, int begin, int end, int steps,
           bool fetch, float* scores) {
  switch (rows) {
    case 1: return score_rows<kType, 1>(q, blocks, begin, end, steps, fetch, scores);
    case 2: return score_rows<kType, 2>(q, blocks, begin, end, steps, fetch, scores);
    case 3: return score_rows<kType, 3>(q, blocks, begin, end, steps, fetch, scores);
    case 4: return score_rows<kType, 4>(q, blocks, begin, end, steps, fetch, scores);
#if defined(STOKER_SIMD_512)
    case 5: return score_rows<kType, 5>(q, blocks, begin, end, steps, fetch, scores);
    case 6: return score_rows<kType, 6>(q, blocks, begin, end, steps, fetch, scores);
    case 7: return score_rows<kType, 7>(q, blocks, begin, end, steps, fetch, scores);
    case 8: return score_rows<kType, 8>(q, blocks, begin, end, steps, fetch, scores);
#endif
  }
}

constexpr float kLog2E = 1.44269504f;

// Turns a row's scores of the visible tokens [begin, end) of a partition into weights
// 2^(score · log2 e - max), zero for the other tokens of the blocks touched.
template <KVType kType>
STOKER_INLINE void softmax_row(const AttentionShape& shape, float* scores, int begin, int end,
                               uint32_t* weights, float* row_max, float* row_sum) {
  const int first = begin / kBlockTokens, last = (end - 1) / kBlockTokens;
  const Vec hidden = splat(-__builtin_inff());
  Vec scale = splat(shape.scale * kLog2E);
  if (shape.softcap > 0) {
    for (int b = first; b <= last; ++b) {
      float* s = scores + b * kBlockTokens;
      store(s, splat(shape.softcap * kLog2E) * tanh(load(s) * splat(shape.scale / shape.softcap)));
    }
    scale = splat(1.0f);
  }
  // Only the first and the last block may hold tokens that are not seen.
  const Mask seen_first = lanes_between(
      begin - first * kBlockTokens, first < last ? kBlockTokens : end - first * kBlockTokens);
  const Mask seen_last =
      lanes_between(first < last ? 0 : begin - first * kBlockTokens, end - last * kBlockTokens);
  const auto scaled = [&](int b) { return load(scores + b * kBlockTokens) * scale; };
  Vec top = max(select(seen_first, scaled(first), hidden), select(seen_last, scaled(last), hidden));
  for (int b = first + 1; b < last; ++b) top = max(scaled(b), top);
  const float maximum = reduce_max(top);

  const Vec below = splat(-maximum);
  const auto weigh = [&](int b, Vec p) {
    if constexpr (kType == KVType::bf16)  // the sum is of what is multiplied
      return store_rounded(reinterpret_cast<uint16_t*>(weights) + b * kBlockTokens, p);
    store_words(weights + b * kBlockTokens, as_words(p));
    return p;
  };
  const auto power = [&](int b) {
    const Vec x = fma(load(scores + b * kBlockTokens), scale, below);
    return kType == KVType::bf16 ? exp2_rough(x) : exp2(x);
  };
  Vec sum = weigh(first, select(seen_first, power(first), splat(0.0f)));
  for (int b = first + 1; b < last; ++b) sum = sum + weigh(b, power(b));
  if (first < last) sum = sum + weigh(last, select(seen_last, power(last), splat(0.0f)));
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
  if (from == to) return;
  value_rows<kType, R>(weights, values, padded, from, to, out);
  for (int r = 0; r < R; ++r)
    value_row<kType>(weights + r * kWords, values, padded, to, visible[r].end, out + r * padded);
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
    blocks.keys[b] = reinterpret_cast<const uint32_t*>(block);
    blocks.values[b] = reinterpret_cast<const uint32_t*>(block + shape.value_offset);
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
    s.part_sum[r] = 0.0f;
    for (int d = 0; d < padded; d += kLanes) store(s.part + r * padded + d, splat(0.0f));
    if (visible[r].begin < visible[r].end)
      softmax_row<kType>(shape, s.scores + r * kPartitionTokens, visible[r].begin, visible[r].end,
                         s.weights + r * (kPartitionTokens / E::kStep), &s.part_max[r],
                         &s.part_sum[r]);
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
      const uint32_t* words = E::pack_row(q, shape.head_dim, s.part);
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
  float scratch[kMaxHeadDim];
  auto* keys = reinterpret_cast<uint32_t*>(head_block);
  const uint32_t* words = E::pack_row(k, shape.head_dim, scratch);
  for (int i = 0; i < shape.head_dim / E::kStep; ++i) keys[i * kBlockTokens + slot] = words[i];
  uint8_t* values = head_block + shape.value_offset;
  if constexpr (kType == KVType::bf16) {
    const auto* halves = reinterpret_cast<const uint16_t*>(E::pack_row(v, shape.head_dim, scratch));
    auto* pairs = reinterpret_cast<uint16_t*>(values) +
                  static_cast<ptrdiff_t>(slot / 2) * 2 * shape.padded_dim + slot % 2;
    for (int d = 0; d < shape.head_dim; ++d) pairs[2 * d] = halves[d];
  } else {
    float* row = reinterpret_cast<float*>(values) +
                 static_cast<ptrdiff_t>(slot) * shape.padded_dim;
    for (int d = 0; d < shape.head_dim; ++d) row[d] = v[d];
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
