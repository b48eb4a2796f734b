// Quantized products with AVX2, and with AVX-VNNI where the processor has it: up to three rows of x
// by the two halves of a panel, 8 rows of weights to a register.
//
// vpmaddubsw adds two products of an unsigned and a signed byte in 16 bits, and saturates. With
// 4-bit codes a whole block fits (8 · 2 · 15 · 127 = 30 480). 8-bit codes are taken as the signed
// s = code − 128, multiplied as |s| · sign(a, s): at most 2 · 128 · 127 = 32 512.
#pragma once

#include "isa/tiles_avx2.h"

namespace stoker::STOKER_ISA {
namespace {

inline __m256i broadcast_quad(const int8_t* codes) {
  int quad;
  memcpy(&quad, codes, sizeof quad);
  return _mm256_set1_epi32(quad);
}

// Written as assembly because this file must also compile for processors without the instruction.
inline __m256i dot_quads(__m256i sum, __m256i codes, __m256i a) {
  asm("%{vex%} vpdpbusd %2, %1, %0" : "+x"(sum) : "x"(codes), "x"(a));
  return sum;
}

inline __m256 load_halfs(const uint16_t* p) {
  return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
}

inline __m256i load_codes(const uint8_t* p) {
  return _mm256_load_si256(reinterpret_cast<const __m256i*>(p));
}

// Adds the integer sums of one block to those of MR rows of x and the halves of a panel.
template <bool q4, bool vnni, int MR>
inline void add_block(const uint8_t* codes, const ActivationBlock* x, ptrdiff_t x_stride,
                      __m256i (&sum)[MR][2]) {
  const __m256i ones = _mm256_set1_epi16(1), low_bits = _mm256_set1_epi8(15);
  const __m256i top_bits = _mm256_set1_epi8(-128);
  if constexpr (q4) {
    __m256i sum16[MR][2];
    if constexpr (!vnni)
#pragma GCC unroll 4
      for (int i = 0; i < MR; ++i)
#pragma GCC unroll 2
        for (int h = 0; h < 2; ++h) sum16[i][h] = _mm256_setzero_si256();
#pragma GCC unroll 4
    for (int quad = 0; quad < 4; ++quad) {
#pragma GCC unroll 2
      for (int h = 0; h < 2; ++h) {
        const __m256i both = load_codes(codes + quad * 64 + h * 32);
        const __m256i low = _mm256_and_si256(both, low_bits);
        const __m256i high = _mm256_and_si256(_mm256_srli_epi16(both, 4), low_bits);
#pragma GCC unroll 4
        for (int i = 0; i < MR; ++i) {
          const __m256i first = broadcast_quad(x[i * x_stride].codes + quad * 4);
          const __m256i second = broadcast_quad(x[i * x_stride].codes + 16 + quad * 4);
          if constexpr (vnni) {
            sum[i][h] = dot_quads(sum[i][h], low, first);
            sum[i][h] = dot_quads(sum[i][h], high, second);
          } else {
            sum16[i][h] = _mm256_add_epi16(sum16[i][h], _mm256_maddubs_epi16(low, first));
            sum16[i][h] = _mm256_add_epi16(sum16[i][h], _mm256_maddubs_epi16(high, second));
          }
        }
      }
    }
    if constexpr (!vnni)
#pragma GCC unroll 4
      for (int i = 0; i < MR; ++i)
#pragma GCC unroll 2
        for (int h = 0; h < 2; ++h)
          sum[i][h] = _mm256_add_epi32(sum[i][h], _mm256_madd_epi16(sum16[i][h], ones));
  } else {
#pragma GCC unroll 8
    for (int quad = 0; quad < 8; ++quad) {
#pragma GCC unroll 2
      for (int h = 0; h < 2; ++h) {
        const __m256i w = load_codes(codes + quad * 64 + h * 32);
        const __m256i s = _mm256_xor_si256(w, top_bits), magnitude = _mm256_abs_epi8(s);
#pragma GCC unroll 4
        for (int i = 0; i < MR; ++i) {
          const __m256i v = broadcast_quad(x[i * x_stride].codes + quad * 4);
          if constexpr (vnni) {
            sum[i][h] = dot_quads(sum[i][h], w, v);
          } else {
            const __m256i pairs = _mm256_maddubs_epi16(magnitude, _mm256_sign_epi8(v, s));
            sum[i][h] = _mm256_add_epi32(sum[i][h], _mm256_madd_epi16(pairs, ones));
          }
        }
      }
    }
  }
}

// 128 · Σ of what add_block sums, with the `outlier` of a block that has an outlier quad; for the
// half of a panel whose first quad is at `codes`.
template <bool q4, bool vnni>
inline __m256i outlier_sums(const uint8_t* codes, const ActivationBlock& x) {
  const int quad = x.outlier_quad;
  const __m256i v = broadcast_quad(x.outlier);
  __m256i w = load_codes(codes + (q4 ? quad % 4 : quad) * 64);
  if constexpr (q4)
    w = _mm256_and_si256(_mm256_srl_epi16(w, _mm_cvtsi32_si128(quad / 4 * 4)),
                         _mm256_set1_epi8(15));
  __m256i sum;
  if constexpr (vnni) {
    sum = dot_quads(_mm256_setzero_si256(), w, v);
  } else {
    __m256i pairs;
    if constexpr (q4) {
      pairs = _mm256_maddubs_epi16(w, v);
    } else {
      const __m256i s = _mm256_xor_si256(w, _mm256_set1_epi8(-128));
      pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(s), _mm256_sign_epi8(v, s));
    }
    sum = _mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
  }
  return _mm256_slli_epi32(sum, 7);
}

template <bool q4, bool mins, bool vnni, int MR>
void tile(const MatmulArgs& args, int m, int panel, const Ahead& ahead) {
  constexpr int kCodes = q4 ? 256 : 512;
  // What add_block computes: Σ code·a, or for q8 without VNNI Σ (code − 128)·a.
  constexpr bool kCentred = !q4 && !vnni;
  constexpr int kZeroBits = q4 ? 3 : 7;
  const ptrdiff_t blocks = args.blocks;
  const uint8_t* codes = args.codes + panel * blocks * kCodes;
  const uint16_t* scales = args.scales + panel * blocks * kPanelRows;
  const uint16_t* min = mins ? args.mins + panel * blocks * kPanelRows : nullptr;
  const ActivationBlock* x = args.x->quantized + m * blocks;
  __m256 acc[MR][2];
#pragma GCC unroll 4
  for (int i = 0; i < MR; ++i)
#pragma GCC unroll 2
    for (int h = 0; h < 2; ++h) acc[i][h] = _mm256_setzero_ps();

  for (ptrdiff_t b = 0; b < blocks; ++b) {
    fetch_codes(ahead, b);
    __m256i sum[MR][2];
#pragma GCC unroll 4
    for (int i = 0; i < MR; ++i) {
      int start = 0;
      if constexpr (mins && kCentred) start = -x[i * blocks + b].neg_sum * (1 << kZeroBits);
      if constexpr (!mins && !kCentred) start = x[i * blocks + b].neg_sum * (1 << kZeroBits);
#pragma GCC unroll 2
      for (int h = 0; h < 2; ++h) sum[i][h] = _mm256_set1_epi32(start);
      if (x[i * blocks + b].outlier_quad != kNoOutlier)
#pragma GCC unroll 2
        for (int h = 0; h < 2; ++h)
          sum[i][h] = _mm256_add_epi32(
              sum[i][h], outlier_sums<q4, vnni>(codes + b * kCodes + h * 32, x[i * blocks + b]));
    }
    add_block<q4, vnni>(codes + b * kCodes, x + b, blocks, sum);
#pragma GCC unroll 2
    for (int h = 0; h < 2; ++h) {
      const __m256 d = load_halfs(scales + b * kPanelRows + h * 8);
#pragma GCC unroll 4
      for (int i = 0; i < MR; ++i) {
        const __m256 d_sa = _mm256_mul_ps(d, _mm256_set1_ps(x[i * blocks + b].scale));
        acc[i][h] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(sum[i][h]), d_sa, acc[i][h]);
      }
      if constexpr (mins) {
        const __m256 block_min = load_halfs(min + b * kPanelRows + h * 8);
#pragma GCC unroll 4
        for (int i = 0; i < MR; ++i)
          acc[i][h] = _mm256_fmadd_ps(
              block_min, _mm256_set1_ps(x[i * blocks + b].scaled_sum), acc[i][h]);
      }
    }
  }
#pragma GCC unroll 2
  for (int h = 0; h < 2; ++h)
#pragma GCC unroll 4
    for (int i = 0; i < MR; ++i) store_half(args, m + i, panel * kPanelRows + h * 8, acc[i][h]);
}

template <bool q4, bool mins, bool vnni>
constexpr Tile kTiles[] = {tile<q4, mins, vnni, 1>, tile<q4, mins, vnni, 2>,
                           tile<q4, mins, vnni, 3>};

template <bool q4, bool vnni>
void matmul_quantized(const MatmulArgs& args) {
  const Tile* tiles = args.mins ? kTiles<q4, true, vnni> : kTiles<q4, false, vnni>;
  walk_tiles(args, &tiles, 0, 3, q4 ? 4 : 8);
}

}  // namespace

void matmul_q4(const MatmulArgs& args) { matmul_quantized<true, false>(args); }
void matmul_q8(const MatmulArgs& args) { matmul_quantized<false, false>(args); }
void matmul_q4_vnni(const MatmulArgs& args) { matmul_quantized<true, true>(args); }
void matmul_q8_vnni(const MatmulArgs& args) { matmul_quantized<false, true>(args); }

}  // namespace stoker::STOKER_ISA
