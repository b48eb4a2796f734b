#include "attention.h"

namespace stoker {

#if defined(__x86_64__)
namespace avx2 { extern const AttentionKernels attention_kernels; }
namespace avx512 { extern const AttentionKernels attention_kernels; }
namespace amx { extern const AttentionKernels attention_kernels; }
#endif
namespace portable { extern const AttentionKernels attention_kernels; }

const AttentionKernels& attention_kernels(Isa isa) {
#if defined(__x86_64__)
  switch (isa) {
    case Isa::amx: return amx::attention_kernels;
    // The amx build of attention uses no tiles, only AVX-512 with its bfloat16 products.
    case Isa::avx512:
      return has_avx512_bf16() ? amx::attention_kernels : avx512::attention_kernels;
    case Isa::avx2: return avx2::attention_kernels;
    case Isa::portable: break;
  }
#else
  (void)isa;
#endif
  return portable::attention_kernels;
}

AttentionShape attention_shape(KVType type, int head_dim, int group, float scale, float softcap) {
  const auto aligned = [](size_t bytes) { return (bytes + 63) / 64 * 64; };
  const size_t padded = static_cast<size_t>(head_dim + 15) / 16 * 16;
  const size_t number = type == KVType::int8 ? 1 : type == KVType::bf16 ? 2 : 4;
  const size_t scales = type == KVType::int8 ? kBlockTokens * sizeof(float) : 0;
  AttentionShape shape{.type = type,
                       .head_dim = head_dim,
                       .padded_dim = static_cast<int>(padded),
                       .group = group,
                       .scale = scale,
                       .softcap = softcap,
                       .key_scale_offset = aligned(head_dim * kBlockTokens * number),
                       .value_offset = 0,
                       .value_scale_offset = 0,
                       .head_bytes = 0};
  shape.value_offset = shape.key_scale_offset + scales;
  shape.value_scale_offset = shape.value_offset + padded * kBlockTokens * number;
  shape.head_bytes = shape.value_scale_offset + scales;
  return shape;
}

// Scores, probabilities and packed queries of an item, its running results and one partition's.
size_t attention_scratch_bytes(const AttentionShape& shape) {
  const size_t rows = kItemRows > shape.group ? kItemRows : shape.group;
  const size_t words = rows * (2 * kPartitionTokens + static_cast<size_t>(shape.head_dim) +
                               2 * static_cast<size_t>(shape.padded_dim) + 6);
  return (words * sizeof(float) + 63) / 64 * 64;
}

}  // namespace stoker
