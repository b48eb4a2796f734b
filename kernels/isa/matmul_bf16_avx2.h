// bf16 products with AVX2: widened to float32, two fused multiply-adds for a pair of columns. Each
// is one rounding of an exact product, so the bits are those of the portable kernel.
#pragma once

#include "isa/tiles_avx2.h"

namespace stoker::STOKER_ISA {
namespace {

// Each sum waits for two additions in a row; eight or ten sums of eight lanes hide their latency.
template <int MR, int NR>
void bf16_tile(const MatmulArgs& args, int m, int panel, const Ahead& ahead) {
  constexpr int kBlockBytes = kPanelRows * kBlockCols * 2;
  const ptrdiff_t blocks = args.blocks;
  const uint8_t* codes = args.codes + panel * blocks * kBlockBytes;
  const __m256i high_half = _mm256_set1_epi32(-0x10000);
  __m256 acc[MR][NR][2];
#pragma GCC unroll 8
  for (int i = 0; i < MR; ++i)
#pragma GCC unroll 4
    for (int j = 0; j < NR; ++j) acc[i][j][0] = acc[i][j][1] = _mm256_setzero_ps();

  for (ptrdiff_t b = 0; b < blocks; ++b) {
    fetch_codes(ahead, b);
    alignas(32) float x[MR][kBlockCols];
#pragma GCC unroll 8
    for (int i = 0; i < MR; ++i)
#pragma GCC unroll 4
      for (int k = 0; k < kBlockCols; k += 8) {
        const __m128i values = _mm_loadu_si128(reinterpret_cast<const __m128i*>(
            args.x->values + ((m + i) * blocks + b) * kBlockCols + k));
        const __m256i wide = _mm256_slli_epi32(_mm256_cvtepu16_epi32(values), 16);
        _mm256_store_ps(x[i] + k, _mm256_castsi256_ps(wide));
      }
#pragma GCC unroll 2
    for (int pair = 0; pair < kBlockCols / 2; ++pair)
#pragma GCC unroll 4
      for (int j = 0; j < NR; ++j) {
        __m256 even[2], odd[2];
#pragma GCC unroll 2
        for (int h = 0; h < 2; ++h) {
          const __m256i w = _mm256_load_si256(reinterpret_cast<const __m256i*>(
              codes + (j * blocks + b) * kBlockBytes + pair * 64 + h * 32));
          even[h] = _mm256_castsi256_ps(_mm256_slli_epi32(w, 16));
          odd[h] = _mm256_castsi256_ps(_mm256_and_si256(w, high_half));
        }
#pragma GCC unroll 8
        for (int i = 0; i < MR; ++i) {
          const __m256 first = _mm256_broadcast_ss(&x[i][pair * 2]);
          const __m256 second = _mm256_broadcast_ss(&x[i][pair * 2 + 1]);
#pragma GCC unroll 2
          for (int h = 0; h < 2; ++h) {
            acc[i][j][h] = _mm256_fmadd_ps(even[h], first, acc[i][j][h]);
            acc[i][j][h] = _mm256_fmadd_ps(odd[h], second, acc[i][j][h]);
          }
        }
      }
  }
#pragma GCC unroll 8
  for (int i = 0; i < MR; ++i)
#pragma GCC unroll 4
    for (int j = 0; j < NR; ++j)
#pragma GCC unroll 2
      for (int h = 0; h < 2; ++h)
        store_half(args, m + i, (panel + j) * kPanelRows + h * 8, acc[i][j][h]);
}

constexpr Tile kOnePanel[] = {bf16_tile<1, 1>, bf16_tile<2, 1>, bf16_tile<3, 1>, bf16_tile<4, 1>,
                              bf16_tile<5, 1>};
constexpr Tile kTwoPanels[] = {bf16_tile<1, 2>, bf16_tile<2, 2>};
constexpr Tile kFourPanels[] = {bf16_tile<1, 4>};
constexpr const Tile* kBf16Tiles[] = {kOnePanel, kTwoPanels, kFourPanels};

}  // namespace

void matmul_bf16(const MatmulArgs& args) {
  const int rows = args.m_end - args.m_begin;
  const int log_width = rows == 1 ? 2 : rows == 2 ? 1 : 0;
  walk_tiles(args, kBf16Tiles, log_width, log_width ? rows : 5, 16);
}

}  // namespace stoker::STOKER_ISA
