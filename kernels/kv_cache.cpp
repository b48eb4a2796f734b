#include "kv_cache.h"

#include <cstring>

namespace stoker {

KVCache::KVCache(const AttentionShape& shape, int layers, int kv_heads, int64_t blocks)
    : head_bytes_(shape.head_bytes),
      layer_bytes_(shape.head_bytes * kv_heads),
      block_stride_(layer_bytes_ * layers),
      memory_(block_stride_ * blocks) {}

void KVCache::copy(int layer, int64_t from, int64_t to) const {
  uint8_t* base = head(layer, 0);
  std::memcpy(base + to * block_stride_, base + from * block_stride_, layer_bytes_);
}

}  // namespace stoker
