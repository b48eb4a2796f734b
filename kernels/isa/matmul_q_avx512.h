// Quantized products with AVX-512 VNNI: vpdpbusd adds four products of an unsigned weight and a
// signed activation to each of 16 outputs.
//
// A tile of MR rows of x and NR panels keeps its sums in registers; each weight vector that is read
// (and, for q4, split) serves MR rows, each broadcast quad of activations NR panels. Six by two
// fills the registers (12 integer and 12 float sums) and leaves both multipliers busy; for a
// few rows, panels are taken singly, which streams best. After a block come, for each of the
// sums, a conversion, d·sa and a fused multiply-add: on a machine with two multipliers the products
// can use at most 8 of their 10 slots.
#pragma once

#include "isa/tiles_avx512.h"

namespace stoker::STOKER_ISA {
namespace {

inline __m512i broadcast_quad(const int8_t* codes) {
  int quad;
  memcpy(&quad, codes, sizeof quad);
  return _mm512_set1_epi32(quad);
}

inline __m512 load_halfs(const uint16_t* p) {
  return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
}

// 128 · Σ code·outlier of a block that has an outlier quad.
template <bool q4>
inline __m512i outlier_sums(const uint8_t* codes, const ActivationBlock& x) {
  const int quad = x.outlier_quad;
  __m512i w = _mm512_load_si512(codes + (q4 ? quad % 4 : quad) * 64);
  if constexpr (q4)
    w = _mm512_and_si512(_mm512_srl_epi16(w, _mm_cvtsi32_si128(quad / 4 * 4)),
                         _mm512_set1_epi8(15));
  return _mm512_slli_epi32(
      _mm512_dpbusd_epi32(_mm512_setzero_si512(), w, broadcast_quad(x.outlier)), 7);
}

template <bool q4, bool mins, int MR, int NR>
void tile(const MatmulArgs& args, int m, int panel, const Ahead& ahead) {
  constexpr int kCodes = q4 ? 256 : 512;
  const ptrdiff_t blocks = args.blocks;
  const uint8_t* codes = args.codes + panel * blocks * kCodes;
  const uint16_t* scales = args.scales + panel * blocks * kPanelRows;
  const uint16_t* min = mins ? args.mins + panel * blocks * kPanelRows : nullptr;
  const ActivationBlock* x = args.x->quantized + m * blocks;
  const __m512i low_bits = _mm512_set1_epi8(15);

  __m512 acc[MR][NR];
#pragma GCC unroll 8
  for (int i = 0; i < MR; ++i)
#pragma GCC unroll 4
    for (int j = 0; j < NR; ++j) acc[i][j] = _mm512_setzero_ps();

  for (ptrdiff_t b = 0; b < blocks; ++b) {
    __m512i sum[MR][NR];
#pragma GCC unroll 8
    for (int i = 0; i < MR; ++i) {
      const __m512i start =
          mins ? _mm512_setzero_si512()
               : _mm512_slli_epi32(_mm512_set1_epi32(x[i * blocks + b].neg_sum), q4 ? 3 : 7);
#pragma GCC unroll 4
      for (int j = 0; j < NR; ++j) sum[i][j] = start;
      if (x[i * blocks + b].outlier_quad != kNoOutlier)
#pragma GCC unroll 4
        for (int j = 0; j < NR; ++j)
          sum[i][j] = _mm512_add_epi32(
              sum[i][j],
              outlier_sums<q4>(codes + (j * blocks + b) * kCodes, x[i * blocks + b]));
    }
    fetch_codes(ahead, b);
    if (ahead.factors) {
#pragma GCC unroll 4
      for (int j = 0; j < NR; ++j) {
        _mm_prefetch(scales + ((NR + j) * blocks + b) * kPanelRows, _MM_HINT_T0);
        if constexpr (mins)
          _mm_prefetch(min + ((NR + j) * blocks + b) * kPanelRows, _MM_HINT_T0);
      }
    }
    if constexpr (q4) {
#pragma GCC unroll 4
      for (int quad = 0; quad < 4; ++quad) {
        __m512i low[NR], high[NR];
#pragma GCC unroll 4
        for (int j = 0; j < NR; ++j) {
          const __m512i both =
              _mm512_load_si512(codes + (j * blocks + b) * kCodes + quad * 64);
          low[j] = _mm512_and_si512(both, low_bits);
          high[j] = _mm512_and_si512(_mm512_srli_epi16(both, 4), low_bits);
        }
#pragma GCC unroll 8
        for (int i = 0; i < MR; ++i) {
          const int8_t* row = x[i * blocks + b].codes + quad * 4;
          const __m512i first = broadcast_quad(row), second = broadcast_quad(row + 16);
#pragma GCC unroll 4
          for (int j = 0; j < NR; ++j) {
            sum[i][j] = _mm512_dpbusd_epi32(sum[i][j], low[j], first);
            sum[i][j] = _mm512_dpbusd_epi32(sum[i][j], high[j], second);
          }
        }
      }
    } else {
#pragma GCC unroll 8
      for (int quad = 0; quad < 8; ++quad) {
        __m512i w[NR];
#pragma GCC unroll 4
        for (int j = 0; j < NR; ++j)
          w[j] = _mm512_load_si512(codes + (j * blocks + b) * kCodes + quad * 64);
#pragma GCC unroll 8
        for (int i = 0; i < MR; ++i) {
          const __m512i v = broadcast_quad(x[i * blocks + b].codes + quad * 4);
#pragma GCC unroll 4
          for (int j = 0; j < NR; ++j) sum[i][j] = _mm512_dpbusd_epi32(sum[i][j], w[j], v);
        }
      }
    }
#pragma GCC unroll 4
    for (int j = 0; j < NR; ++j) {
      const __m512 d = load_halfs(scales + (j * blocks + b) * kPanelRows);
#pragma GCC unroll 8
      for (int i = 0; i < MR; ++i) {
        const __m512 d_sa = _mm512_mul_ps(d, _mm512_set1_ps(x[i * blocks + b].scale));
        acc[i][j] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum[i][j]), d_sa, acc[i][j]);
      }
      if constexpr (mins) {
        const __m512 block_min = load_halfs(min + (j * blocks + b) * kPanelRows);
#pragma GCC unroll 8
        for (int i = 0; i < MR; ++i)
          acc[i][j] = _mm512_fmadd_ps(
              block_min, _mm512_set1_ps(x[i * blocks + b].scaled_sum), acc[i][j]);
      }
    }
  }
  store_tile(args, m, panel, acc);
}

constexpr int kMaxTileRows = 6;

template <bool q4, bool mins, int NR>
constexpr Tile kTiles[kMaxTileRows] = {tile<q4, mins, 1, NR>, tile<q4, mins, 2, NR>,
                                       tile<q4, mins, 3, NR>, tile<q4, mins, 4, NR>,
                                       tile<q4, mins, 5, NR>, tile<q4, mins, 6, NR>};

template <bool q4, bool mins>
constexpr const Tile* kTilesByWidth[] = {kTiles<q4, mins, 1>, kTiles<q4, mins, 2>};

template <bool q4>
void matmul_quantized(const MatmulArgs& args) {
  constexpr int kMostRowsSingly = q4 ? 4 : 6;  // up to which memory is the limit
  const int log_width = args.m_end - args.m_begin <= kMostRowsSingly ? 0 : 1;
  walk_tiles(args, args.mins ? kTilesByWidth<q4, true> : kTilesByWidth<q4, false>, log_width,
             kMaxTileRows, q4 ? 4 : 8);
}

}  // namespace
}  // namespace stoker::STOKER_ISA
