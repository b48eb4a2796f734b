// What a key-value cache is made of: how sixteen words of it are loaded, multiplied and summed.
//
// A word of the cache holds one float32, two bfloat16 or two 8-bit integers with a scale for each
// token and head. bfloat16 is multiplied as such; 8-bit integers with 15-bit ones, in exact sums
// (at most 1024 · 127 · 16383 and 256 · 127 · 32767, below 2^31).
#pragma once

#include "attention.h"
#include "simd.h"

namespace stoker::STOKER_ISA {
namespace {

template <KVType kType>
struct Element;

template <>
struct Element<KVType::bf16> {
  using Sum = Vec;
  static constexpr int kStep = 2;          // numbers in a word
  static constexpr int kVectorBytes = 64;  // sixteen words in the cache

  STOKER_INLINE Sum zero() { return splat(0.0f); }
  STOKER_INLINE Sum load_sum(const float* p) { return load(p); }
  STOKER_INLINE void store_sum(float* p, Sum sum) { store(p, sum); }
  STOKER_INLINE Vec value(Sum sum) { return sum; }
  STOKER_INLINE Words load_vector(const uint8_t* cache, int i) {
    return load_words(reinterpret_cast<const uint32_t*>(cache) + i * kLanes);
  }
  STOKER_INLINE Sum dot(Sum sum, Words a, Words b) { return dot_pairs(sum, a, b); }

  // The words of a query's n numbers, and what a product with them is to be multiplied with.
  // `scratch` has room for as many floats, rounded up to 16.
  STOKER_INLINE const uint32_t* pack_query(const float* x, int n, float* scratch, float* scale) {
    auto* halves = reinterpret_cast<uint16_t*>(scratch);
    int i = 0;
    for (; i + kLanes <= n; i += kLanes) store_bf16(halves + i, load(x + i));
    if (i < n) store_bf16(halves + i, load_first(x + i, n - i));
    *scale = 1.0f;
    return reinterpret_cast<const uint32_t*>(scratch);
  }
};

template <>
struct Element<KVType::fp32> {
  using Sum = Vec;
  static constexpr int kStep = 1;
  static constexpr int kVectorBytes = 64;

  STOKER_INLINE Sum zero() { return splat(0.0f); }
  STOKER_INLINE Sum load_sum(const float* p) { return load(p); }
  STOKER_INLINE void store_sum(float* p, Sum sum) { store(p, sum); }
  STOKER_INLINE Vec value(Sum sum) { return sum; }
  STOKER_INLINE Words load_vector(const uint8_t* cache, int i) {
    return load_words(reinterpret_cast<const uint32_t*>(cache) + i * kLanes);
  }
  STOKER_INLINE Sum dot(Sum sum, Words a, Words b) { return fma(as_floats(a), as_floats(b), sum); }
  STOKER_INLINE const uint32_t* pack_query(const float* x, int, float*, float* scale) {
    *scale = 1.0f;
    return reinterpret_cast<const uint32_t*>(x);
  }
};

// The largest magnitude of n numbers; NaN if one of them is not finite.
STOKER_INLINE float magnitude(const float* x, int n) {
  Vec top = splat(0.0f), sum = splat(0.0f);
  for (int i = 0; i < n; i += kLanes) {
    const Vec v = i + kLanes <= n ? load(x + i) : load_first(x + i, n - i);
    top = max(absolute(v), top);
    sum = sum + (v - v);
  }
  return reduce_max(top) + reduce_add(sum);
}

// Integers up to `most`, and the scale that gives back the numbers: 0 for numbers that are nearly
// zero, NaN where one is not finite.
struct Rounding {
  float scale, inverse;
};
STOKER_INLINE Rounding rounding_to(float magnitude, float most) {
  if (magnitude < 1e-30f) return {0.0f, 0.0f};
  return {magnitude / most, most / magnitude};
}

template <>
struct Element<KVType::int8> {
  using Sum = Words;
  static constexpr int kStep = 2;
  static constexpr int kVectorBytes = 32;
  static constexpr float kMostQuery = 16383.0f;
  static constexpr float kMostWeight = 32767.0f;

  STOKER_INLINE Sum zero() { return splat_word(0); }
  STOKER_INLINE Sum load_sum(const float* p) {
    return load_words(reinterpret_cast<const uint32_t*>(p));
  }
  STOKER_INLINE void store_sum(float* p, Sum sum) {
    store_words(reinterpret_cast<uint32_t*>(p), sum);
  }
  STOKER_INLINE Vec value(Sum sum) { return to_floats(sum); }
  STOKER_INLINE Words load_vector(const uint8_t* cache, int i) {
    return load_byte_pairs(cache + i * kVectorBytes);
  }
  STOKER_INLINE Sum dot(Sum sum, Words a, Words b) { return dot_int_pairs(sum, a, b); }

  STOKER_INLINE const uint32_t* pack_query(const float* x, int n, float* scratch, float* scale) {
    const Rounding rounding = rounding_to(magnitude(x, n), kMostQuery);
    auto* halves = reinterpret_cast<uint16_t*>(scratch);
    for (int i = 0; i < n; i += kLanes) {
      const Vec v = i + kLanes <= n ? load(x + i) : load_first(x + i, n - i);
      store_u16(halves + i, round_to_int(v * splat(rounding.inverse)));
    }
    *scale = rounding.scale;
    return reinterpret_cast<const uint32_t*>(scratch);
  }
};

// Writes one token's key and value, n numbers each, into slot `slot` of a head's block.
template <KVType kType>
STOKER_INLINE void write_element(const AttentionShape& shape, uint8_t* block, int slot,
                                 const float* k, const float* v) {
  using E = Element<kType>;
  float scratch[kMaxHeadDim], unused;
  const int n = shape.head_dim;
  auto* keys = reinterpret_cast<uint32_t*>(block);
  const uint32_t* words = E::pack_query(k, n, scratch, &unused);
  for (int i = 0; i < n / E::kStep; ++i) keys[i * kBlockTokens + slot] = words[i];
  words = E::pack_query(v, n, scratch, &unused);
  const ptrdiff_t row = static_cast<ptrdiff_t>(slot / E::kStep) * shape.padded_dim;
  if constexpr (kType == KVType::bf16) {
    const auto* halves = reinterpret_cast<const uint16_t*>(words);
    auto* values = reinterpret_cast<uint16_t*>(block + shape.value_offset) + 2 * row + slot % 2;
    for (int d = 0; d < n; ++d) values[2 * d] = halves[d];
  } else {
    auto* values = reinterpret_cast<uint32_t*>(block + shape.value_offset) + row;
    for (int d = 0; d < n; ++d) values[d] = words[d];
  }
}

// Rounds n numbers to bytes; returns their scale.
STOKER_INLINE float round_to_bytes(const float* x, int n, uint8_t* bytes) {
  const Rounding rounding = rounding_to(magnitude(x, n), 127.0f);
  for (int i = 0; i < n; i += kLanes) {
    const Vec v = i + kLanes <= n ? load(x + i) : load_first(x + i, n - i);
    store_u8(bytes + i, round_to_int(v * splat(rounding.inverse)));
  }
  return rounding.scale;
}

// The same for 8-bit integers.
STOKER_INLINE void write_bytes(const AttentionShape& shape, uint8_t* block, int slot,
                               const float* k, const float* v) {
  uint8_t bytes[kMaxHeadDim];
  const int n = shape.head_dim;
  const float key_scale = round_to_bytes(k, n, bytes);
  for (int d = 0; d < n; ++d) block[d / 2 * 2 * kBlockTokens + 2 * slot + d % 2] = bytes[d];
  reinterpret_cast<float*>(block + shape.key_scale_offset)[slot] = key_scale;
  const float value_scale = round_to_bytes(v, n, bytes);
  uint8_t* values = block + shape.value_offset +
                    static_cast<ptrdiff_t>(slot / 2) * 2 * shape.padded_dim + slot % 2;
  for (int d = 0; d < n; ++d) values[2 * d] = bytes[d];
  reinterpret_cast<float*>(block + shape.value_scale_offset)[slot] = value_scale;
}

}  // namespace
}  // namespace stoker::STOKER_ISA
