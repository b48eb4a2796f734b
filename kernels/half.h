// 16-bit floating point ↔ float32 in plain integer arithmetic, the same bits on every machine.
// Internal linkage on purpose: files compiled for different instruction sets include this.
#pragma once

#include <cstdint>
#include <cstring>

namespace stoker {

static inline uint32_t float_bits(float x) {
  uint32_t bits;
  memcpy(&bits, &x, sizeof bits);
  return bits;
}

static inline float float_from_bits(uint32_t bits) {
  float x;
  memcpy(&x, &bits, sizeof x);
  return x;
}

static inline float bf16_to_float(uint16_t h) {
  return float_from_bits(static_cast<uint32_t>(h) << 16);
}

// Rounds half to even; a NaN stays a (quiet) NaN, and what is too large becomes infinite.
static inline uint16_t float_to_bf16(float x) {
  const uint32_t bits = float_bits(x);
  const uint32_t rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16;
  const uint32_t quiet_nan = (bits >> 16) | 0x40;
  return static_cast<uint16_t>((bits & 0x7FFFFFFF) > 0x7F800000 ? quiet_nan : rounded);
}

static inline float half_to_float(uint16_t h) {
  const uint32_t sign = static_cast<uint32_t>(h & 0x8000) << 16;
  const uint32_t magnitude = static_cast<uint32_t>(h & 0x7FFF) << 13;
  const uint32_t exponent = magnitude & 0x0F800000;
  if (exponent == 0x0F800000)  // infinite or not a number
    return float_from_bits(sign | (magnitude + 0x70000000));
  if (exponent != 0) return float_from_bits(sign | (magnitude + 0x38000000));
  // Subnormal: the fraction in units of 2^-24, exact in float32.
  const float value = static_cast<float>(h & 0x3FF) * 0x1p-24f;
  return float_from_bits(sign | float_bits(value));
}

// Rounds half to even; a NaN stays a quiet NaN, and what is too large becomes infinite.
static inline uint16_t float_to_half(float x) {
  const uint32_t bits = float_bits(x);
  const uint32_t sign = (bits >> 16) & 0x8000;
  const uint32_t magnitude = bits & 0x7FFFFFFF;
  if (magnitude > 0x7F800000) return static_cast<uint16_t>(sign | 0x7E00);
  if (magnitude >= 0x47800000) return static_cast<uint16_t>(sign | 0x7C00);  // 2^16 and above
  if (magnitude < 0x38800000) {  // below 2^-14: adding 0.5 aligns the fraction to units of 2^-24
    const uint32_t fraction = float_bits(float_from_bits(magnitude) + 0.5f) - 0x3F000000;
    return static_cast<uint16_t>(sign | fraction);
  }
  const uint32_t rounded = magnitude + 0x0FFF + ((magnitude >> 13) & 1) - 0x38000000;
  return static_cast<uint16_t>(sign | (rounded >> 13));
}

}  // namespace stoker
