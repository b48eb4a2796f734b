// Decoding of GGUF's block formats (ggml's block_q8_0, block_q4_K, …), 32 columns at a time.
#pragma once

#include <cstdint>
#include <cstring>

#include "half.h"

namespace stoker {

// Bytes of a block and of its parts are as the GGUF specification lays them out.
inline uint16_t load_u16(const uint8_t* p) {
  uint16_t v;
  memcpy(&v, p, sizeof v);
  return v;
}

// 32 columns as unsigned codes: weight = scale · code + min.
struct CodedBlock {
  uint8_t codes[32];
  float scale, min;
};

// The codes of Q5_0 and Q5_1, 0..31: 32 bits that are the columns' fifth bits, then 16 bytes whose
// low nibbles are columns 0–15 and high ones 16–31.
inline void decode_q5_codes(const uint8_t* fifth, uint8_t* codes) {
  uint32_t bits;
  memcpy(&bits, fifth, sizeof bits);
  const uint8_t* nibbles = fifth + 4;
  for (int i = 0; i < 16; ++i) {
    codes[i] = static_cast<uint8_t>((nibbles[i] & 15) | (bits >> i & 1) << 4);
    codes[16 + i] = static_cast<uint8_t>(nibbles[i] >> 4 | (bits >> (16 + i) & 1) << 4);
  }
}

// The 6-bit scale and min of sub-block j (0..7) of a K-quant super-block, from its 12 bytes.
inline void unpack_k_scale(const uint8_t* packed, int j, int& scale, int& min) {
  if (j < 4) {
    scale = packed[j] & 63;
    min = packed[j + 4] & 63;
  } else {
    scale = (packed[j + 4] & 15) | (packed[j - 4] >> 6) << 4;
    min = (packed[j + 4] >> 4) | (packed[j] >> 6) << 4;
  }
}

// Q4_K: fp16 d, fp16 dmin, 12 bytes of scales, 128 of nibbles; 8 sub-blocks of 32 columns, two of
// which share 32 bytes. weight = d·scale·code − dmin·min.
inline CodedBlock decode_q4_k(const uint8_t* super, int j) {
  CodedBlock block;
  int scale, min;
  unpack_k_scale(super + 4, j, scale, min);
  block.scale = half_to_float(load_u16(super)) * static_cast<float>(scale);
  block.min = -(half_to_float(load_u16(super + 2)) * static_cast<float>(min));
  const uint8_t* nibbles = super + 16 + j / 2 * 32;
  const int shift = j % 2 * 4;
  for (int i = 0; i < 32; ++i) block.codes[i] = static_cast<uint8_t>(nibbles[i] >> shift & 15);
  return block;
}

// Q5_K: as Q4_K, with 32 bytes before the nibbles whose bit j is the fifth bit of sub-block j.
inline CodedBlock decode_q5_k(const uint8_t* super, int j) {
  CodedBlock block;
  int scale, min;
  unpack_k_scale(super + 4, j, scale, min);
  block.scale = half_to_float(load_u16(super)) * static_cast<float>(scale);
  block.min = -(half_to_float(load_u16(super + 2)) * static_cast<float>(min));
  const uint8_t* fifth = super + 16;
  const uint8_t* nibbles = super + 48 + j / 2 * 32;
  const int shift = j % 2 * 4;
  for (int i = 0; i < 32; ++i)
    block.codes[i] = static_cast<uint8_t>((nibbles[i] >> shift & 15) | (fifth[i] >> j & 1) << 4);
  return block;
}

// Q6_K: 128 bytes of low nibbles, 64 of high bit pairs, 16 int8 scales (each of 16 columns), fp16
// d; two halves of 128 columns. weight = d·scale·(code − 32).
inline void decode_q6_k(const uint8_t* super, int j, float* out) {
  const int half = j / 4, quarter = j % 4;
  const uint8_t* low = super + half * 64 + quarter % 2 * 32;
  const uint8_t* high = super + 128 + half * 32;
  const auto* scales = reinterpret_cast<const int8_t*>(super + 192) + half * 8 + quarter * 2;
  const float d = half_to_float(load_u16(super + 208));
  const float scale[2] = {d * static_cast<float>(scales[0]), d * static_cast<float>(scales[1])};
  const int low_shift = quarter / 2 * 4, high_shift = quarter * 2;
  for (int i = 0; i < 32; ++i) {
    const int code = (low[i] >> low_shift & 15) | (high[i] >> high_shift & 3) << 4;
    out[i] = scale[i / 16] * static_cast<float>(code - 32);
  }
}

}  // namespace stoker
