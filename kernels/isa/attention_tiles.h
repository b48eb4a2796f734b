// The two products of attention over a partition, in tiles that stay in registers: queries with
// keys, and weights with values.
#pragma once

#include "kv_elements.h"

namespace stoker::STOKER_ISA {
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

// What a row sees of a partition.
struct Visible {
  int begin, end;  // tokens, relative to the partition
};

// Where the keys and values of a partition's blocks lie.
struct Blocks {
  const uint8_t* keys[kPartitionBlocks];
  const uint8_t* values[kPartitionBlocks];
  const float* key_scales[kPartitionBlocks];    // [16 tokens], of 8-bit integers alone
  const float* value_scales[kPartitionBlocks];
};

// scores[r][16 b + t] = q_r · k of token t of block b, for R rows and B blocks from `first` on.
// A lone query waits for memory more than it computes: with `fetch`, the values of these blocks
// and the keys of the next ones are on their way meanwhile.
template <KVType kType, int R, int B>
STOKER_INLINE void score_tile(const uint32_t* q, const Blocks& blocks, int first, int end,
                              int steps, bool fetch, float* scores) {
  using E = Element<kType>;
  const uint8_t *keys[B], *next[B], *values[B];
  for (int b = 0; b < B; ++b) {
    keys[b] = blocks.keys[first + b];
    values[b] = blocks.values[first + b];
    next[b] = blocks.keys[first + B + b < end ? first + B + b : end - 1];
  }
  typename E::Sum sums[R][B];
  for (int r = 0; r < R; ++r)
    for (int b = 0; b < B; ++b) sums[r][b] = E::zero();
  for (int i = 0; i < steps; ++i) {
    Words k[B];
    for (int b = 0; b < B; ++b) k[b] = E::load_vector(keys[b], i);
    if (fetch)
      for (int b = 0; b < B; ++b) {
        __builtin_prefetch(next[b] + i * E::kVectorBytes);
        __builtin_prefetch(values[b] + i * E::kVectorBytes);
      }
    for (int r = 0; r < R; ++r) {
      const Words x = splat_word(q[i * R + r]);
      for (int b = 0; b < B; ++b) sums[r][b] = E::dot(sums[r][b], x, k[b]);
    }
  }
  for (int r = 0; r < R; ++r)
    for (int b = 0; b < B; ++b)
      store(scores + r * kPartitionTokens + (first + b) * kBlockTokens, E::value(sums[r][b]));
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

// out[r][16 v …] += Σ weights[r][t] · values[t], tokens [begin, end) in ascending order; both are
// multiples of the step.
template <KVType kType, int R, int V>
STOKER_INLINE void value_tile(const uint32_t* weights, const uint8_t* const* values, int padded,
                              int begin, int end, float* out) {
  using E = Element<kType>;
  constexpr int kWords = kPartitionTokens / E::kStep, kBlockWords = kBlockTokens / E::kStep;
  const int vectors = padded / kLanes;
  typename E::Sum sums[R][V];
  for (int r = 0; r < R; ++r)
    for (int v = 0; v < V; ++v) sums[r][v] = E::load_sum(out + r * padded + v * kLanes);
  for (int i = begin / E::kStep; i < end / E::kStep;) {
    const uint8_t* block = values[i / kBlockWords];
    int stop = (i / kBlockWords + 1) * kBlockWords;
    if (stop > end / E::kStep) stop = end / E::kStep;
    for (const int base = i / kBlockWords * kBlockWords; i < stop; ++i) {
      Words x[V];
      for (int v = 0; v < V; ++v) x[v] = E::load_vector(block, (i - base) * vectors + v);
      for (int r = 0; r < R; ++r) {
        const Words w = splat_word(weights[r * kWords + i]);
        for (int v = 0; v < V; ++v) sums[r][v] = E::dot(sums[r][v], w, x[v]);
      }
    }
  }
  for (int r = 0; r < R; ++r)
    for (int v = 0; v < V; ++v) E::store_sum(out + r * padded + v * kLanes, sums[r][v]);
}

template <KVType kType, int R>
void value_rows(const uint32_t* weights, const uint8_t* const* values, int padded, int begin,
                int end, float* out) {
  using E = Element<kType>;
  const uint8_t* shifted[kPartitionBlocks];
  const int first = begin / kBlockTokens, last = (end - 1) / kBlockTokens;
  int d = 0;
  for (; d + kValueVecs * kLanes <= padded; d += kValueVecs * kLanes) {
    for (int b = first; b <= last; ++b) shifted[b] = values[b] + d / kLanes * E::kVectorBytes;
    value_tile<kType, R, kValueVecs>(weights, shifted, padded, begin, end, out + d);
  }
  for (; d < padded; d += kLanes) {
    for (int b = first; b <= last; ++b) shifted[b] = values[b] + d / kLanes * E::kVectorBytes;
    value_tile<kType, R, 1>(weights, shifted, padded, begin, end, out + d);
  }
}

// One token whose partner in the word must not be read: it may never have been written, and zero
// times what lies there need not be zero.
STOKER_INLINE void add_half(const uint32_t* weights, const uint8_t* const* values, int padded,
                            int token, float* out) {
  const auto* v = reinterpret_cast<const uint32_t*>(values[token / kBlockTokens]) +
                  token % kBlockTokens / 2 * padded;
  const uint32_t keep = token % 2 ? 0xffff0000u : 0xffffu;
  const Words w = splat_word(weights[token / 2] & keep);
  for (int d = 0; d < padded; d += kLanes)
    store(out + d, dot_pairs(load(out + d), w, load_words(v + d) & splat_word(keep)));
}

// One row, tokens [begin, end) of the partition.
template <KVType kType>
STOKER_INLINE void value_row(const uint32_t* weights, const uint8_t* const* values, int padded,
                             int begin, int end, float* out) {
  using E = Element<kType>;
  if constexpr (kType == KVType::bf16) {
    if (begin < end && begin % 2) add_half(weights, values, padded, begin++, out);
    const int even = end / 2 * 2;
    if (begin < even) value_rows<kType, 1>(weights, values, padded, begin, even, out);
    if (begin < end && end % 2) add_half(weights, values, padded, end - 1, out);
  } else {
    // Integers may be read whole: where a token is not seen, its weight is zero.
    begin = begin / E::kStep * E::kStep;
    end = (end + E::kStep - 1) / E::kStep * E::kStep;
    if (begin < end) value_rows<kType, 1>(weights, values, padded, begin, end, out);
  }
}

// All rows of a tile: the tokens that all of them see together, those before and after by row.
template <KVType kType, int R>
void value_group(const uint32_t* weights, const uint8_t* const* values, int padded,
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
STOKER_INLINE void weigh_values(int rows, const uint32_t* weights, const uint8_t* const* values,
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

}  // namespace
}  // namespace stoker::STOKER_ISA
