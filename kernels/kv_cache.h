// The paged key-value cache: blocks of 16 tokens (attention.h has the layout), each with all its
// layers side by side: memory comes in pages of 2 MB, which a few blocks must not touch one of for
// each layer.
#pragma once

#include <cstddef>
#include <cstdint>

#include "attention.h"
#include "memory.h"

namespace stoker {

class KVCache {
 public:
  // Memory is reserved, and zero until written; pages become resident as blocks are used.
  KVCache(const AttentionShape& shape, int layers, int kv_heads, int64_t blocks);

  size_t block_stride() const { return block_stride_; }

  // K of `head` in block 0 of `layer`; other blocks follow at block_stride.
  uint8_t* head(int layer, int head) const {
    return memory_.data() + static_cast<size_t>(layer) * layer_bytes_ +
           static_cast<size_t>(head) * head_bytes_;
  }

  // Copies whole blocks of one layer.
  void copy(int layer, int64_t from, int64_t to) const;

 private:
  size_t head_bytes_, layer_bytes_, block_stride_;
  Memory memory_;
};

}  // namespace stoker
