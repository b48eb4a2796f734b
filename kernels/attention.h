// Paged attention: what it is told and how the key-value cache lies in memory.
//
// The cache is made of blocks of 16 tokens. For one layer, block and key-value head there is first
// K, then V, both in words that hold one float32, two bfloat16 or two 8-bit integers:
//
//   K  [head_dim / step][16 tokens]       step = 1 (float32) or 2 (two dimensions a word)
//   V  [16 / step][padded head_dim]       (two tokens a word)
//
// 8-bit integers are followed by the float32 scales [16 tokens] of K, and those of V: a token's
// key is rounded with scale max|k| / 127, its value likewise.
//
// so that one vector holds the same dimensions of the sixteen tokens (scores) or the same tokens
// of sixteen dimensions (values).
//
// A query's result is computed in partitions of 256 positions, aligned to absolute positions, each
// with its own maximum and sum (as in FlashAttention, Dao et al. 2022, and its split decoding),
// and merged in ascending order. What is computed for a query depends on its position and the
// cache alone, so decode, any chunking of a prompt and any number of threads give the same bits.
// bfloat16 products follow VDPBF16PS (isa/simd.h) and sums of integers are exact, so every
// instruction set gives them too.
#pragma once

#include <cstddef>
#include <cstdint>

#include "cpu_features.h"

namespace stoker {

inline constexpr int kBlockTokens = 16;
inline constexpr int kPartitionTokens = 256;
inline constexpr int kPartitionBlocks = kPartitionTokens / kBlockTokens;
// (query, head) rows of one item: as many queries as fit in kItemRows, at least one.
inline constexpr int kItemRows = 64;
inline constexpr int kMaxGroup = 128;
inline constexpr int kMaxHeadDim = 1024;

enum class KVType : int { bf16, fp32, int8 };

struct AttentionShape {
  KVType type;
  int head_dim;      // even
  int padded_dim;    // head_dim rounded up to 16
  int group;         // query heads that share a key-value head
  float scale;
  float softcap;     // 0: none
  // Bytes from the start of one head of one block to the scales of K, to V and to its scales, and
  // to the end. Scales are there for 8-bit integers alone.
  size_t key_scale_offset, value_offset, value_scale_offset, head_bytes;
};

AttentionShape attention_shape(KVType type, int head_dim, int group, float scale, float softcap);

// Consecutive queries of one sequence against one key-value head.
struct AttentionItem {
  const uint8_t* cache;        // K of block 0 of this layer and head
  size_t block_stride;         // bytes from one block to the next
  const int32_t* block_table;
  int first_position;          // of the first query
  int queries;                 // at most max(1, kItemRows / group)
  int window;                  // 0: none; else a query at p sees p - window + 1 … p
  const float* q;              // first query, first head of the group: [group · head_dim]
  ptrdiff_t q_stride;          // floats from one query to the next
  float* out;                  // as q
  ptrdiff_t out_stride;
  // Where a split item leaves its partition: see partial_floats. Null: all partitions, into `out`.
  float* partial;
  int partition;               // absolute index; only for a split item
};

// The partitions that a query at `position` sees: [begin, end).
struct PartitionRange {
  int begin, end;
};
static inline PartitionRange visible_partitions(int position, int window) {
  const int first = window > 0 && position >= window ? position - window + 1 : 0;
  return {first / kPartitionTokens, position / kPartitionTokens + 1};
}

// Floats of one partition's result for one row: maximum, sum and weighted values.
static inline size_t partial_floats(const AttentionShape& shape) {
  return static_cast<size_t>(shape.padded_dim) + kBlockTokens;
}

// Bytes of scratch memory that attend and merge need, for each thread.
size_t attention_scratch_bytes(const AttentionShape& shape);

struct AttentionKernels {
  // Writes one token's key and value, [head_dim] each, into slot `slot` of a head's block.
  void (*write)(const AttentionShape& shape, uint8_t* head_block, int slot, const float* k,
                const float* v);
  void (*attend)(const AttentionShape& shape, const AttentionItem& item, void* scratch);
  // Merges `partitions` partial results of a split query, each [group] rows, into `out`
  // [group · head_dim].
  void (*merge)(const AttentionShape& shape, const float* partials, int partitions, void* scratch,
                float* out);
};

const AttentionKernels& attention_kernels(Isa isa);

}  // namespace stoker
