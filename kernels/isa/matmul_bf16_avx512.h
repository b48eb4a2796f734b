// bf16 products with AVX-512: pairs of columns, in order, onto one float32 sum for each output.
// With AVX512_BF16 a pair is one vdpbf16ps, otherwise two fused multiply-adds on widened values.
// vdpbf16ps takes six cycles: eight rows by two panels keep two multipliers busy, and up to eight
// rows the weights pass once.
#pragma once

#include "isa/tiles_avx512.h"

namespace stoker::STOKER_ISA {
namespace {

// Written as assembly because this file must also compile for processors without the instruction;
// it is executed only where has_avx512_bf16() is true.
inline __m512 dot_pairs(__m512 acc, __m512i w, __m512i x) {
  asm("vdpbf16ps %2, %1, %0" : "+v"(acc) : "v"(w), "v"(x));
  return acc;
}

inline __m512 even_floats(__m512i pairs) { return _mm512_castsi512_ps(_mm512_slli_epi32(pairs, 16)); }

inline __m512 odd_floats(__m512i pairs) {
  return _mm512_castsi512_ps(_mm512_and_si512(pairs, _mm512_set1_epi32(-0x10000)));
}

template <bool dot, int MR, int NR>
void bf16_tile(const MatmulArgs& args, int m, int panel, const Ahead& ahead) {
  constexpr int kBlockBytes = kPanelRows * kBlockCols * 2;
  const ptrdiff_t blocks = args.blocks;
  const uint8_t* codes = args.codes + panel * blocks * kBlockBytes;
  const uint16_t* x = args.x->values + m * blocks * kBlockCols;

  __m512 acc[MR][NR];
#pragma GCC unroll 8
  for (int i = 0; i < MR; ++i)
#pragma GCC unroll 4
    for (int j = 0; j < NR; ++j) acc[i][j] = _mm512_setzero_ps();

  for (ptrdiff_t b = 0; b < blocks; ++b) {
    fetch_codes(ahead, b);
#pragma GCC unroll 2
    for (int pair = 0; pair < kBlockCols / 2; ++pair) {
      __m512i w[NR];
#pragma GCC unroll 4
      for (int j = 0; j < NR; ++j)
        w[j] = _mm512_load_si512(codes + (j * blocks + b) * kBlockBytes + pair * 64);
#pragma GCC unroll 8
      for (int i = 0; i < MR; ++i) {
        int both;
        memcpy(&both, x + (i * blocks + b) * kBlockCols + pair * 2, sizeof both);
        const __m512i v = _mm512_set1_epi32(both);
#pragma GCC unroll 4
        for (int j = 0; j < NR; ++j) {
          if constexpr (dot) {
            acc[i][j] = dot_pairs(acc[i][j], w[j], v);
          } else {
            acc[i][j] = _mm512_fmadd_ps(even_floats(w[j]), even_floats(v), acc[i][j]);
            acc[i][j] = _mm512_fmadd_ps(odd_floats(w[j]), odd_floats(v), acc[i][j]);
          }
        }
      }
    }
  }
  store_tile(args, m, panel, acc);
}

template <bool dot, int NR>
constexpr Tile kBf16Tiles[] = {bf16_tile<dot, 1, NR>, bf16_tile<dot, 2, NR>, bf16_tile<dot, 3, NR>,
                               bf16_tile<dot, 4, NR>, bf16_tile<dot, 5, NR>, bf16_tile<dot, 6, NR>,
                               bf16_tile<dot, 7, NR>, bf16_tile<dot, 8, NR>};
template <bool dot>
constexpr const Tile* kBf16TilesByWidth[] = {kBf16Tiles<dot, 1>, kBf16Tiles<dot, 2>};

template <bool dot>
void matmul_bf16_tiles(const MatmulArgs& args) {
  walk_tiles(args, kBf16TilesByWidth<dot>, 1, 8, 16);
}

}  // namespace
}  // namespace stoker::STOKER_ISA
