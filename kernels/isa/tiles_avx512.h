// What the AVX-512 kernels share.
#pragma once

#include <immintrin.h>

#include "isa/tiles.h"

namespace stoker::STOKER_ISA {
namespace {

template <int MR, int NR>
void store_tile(const MatmulArgs& args, int m, int panel, const __m512 (&acc)[MR][NR]) {
#pragma GCC unroll 4
  for (int j = 0; j < NR; ++j) {
    const int first = (panel + j) * kPanelRows;
    const int lanes = args.rows - first < kPanelRows ? args.rows - first : kPanelRows;
    const auto mask = static_cast<__mmask16>((1u << lanes) - 1);
#pragma GCC unroll 8
    for (int i = 0; i < MR; ++i)
      _mm512_mask_storeu_ps(args.out + (m + i) * args.out_stride + first, mask, acc[i][j]);
  }
}

}  // namespace
}  // namespace stoker::STOKER_ISA
