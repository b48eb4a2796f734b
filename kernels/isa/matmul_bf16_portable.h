// bf16 products in plain C++, which compilers vectorize over the 16 rows of a panel.
#pragma once

#include "isa/kernels.h"

namespace stoker::STOKER_ISA {

// A product of two bf16 is exact in float32, so multiply-then-add rounds once, as fma does.
void matmul_bf16(const MatmulArgs& args) {
  constexpr int kMostRows = 4;  // of x, which share the widening of the weights
  const ptrdiff_t pairs = static_cast<ptrdiff_t>(args.blocks) * kBlockCols / 2;
  for (int panel = args.panel_begin; panel < args.panel_end; ++panel) {
    const uint8_t* weights = args.codes + panel * pairs * 4 * kPanelRows;
    const int rows_left = args.rows - panel * kPanelRows;
    const int lanes = rows_left < kPanelRows ? rows_left : kPanelRows;
    for (int m = args.m_begin, rows; m < args.m_end; m += rows) {
      rows = args.m_end - m < kMostRows ? args.m_end - m : kMostRows;
      const uint16_t* x = args.x->values + m * pairs * 2;
      float acc[kMostRows][kPanelRows] = {};
      for (ptrdiff_t pair = 0; pair < pairs; ++pair) {
        uint32_t words[kPanelRows];
        memcpy(words, weights + pair * sizeof words, sizeof words);
        float first[kPanelRows], second[kPanelRows];
        for (int lane = 0; lane < kPanelRows; ++lane) {
          first[lane] = float_from_bits(words[lane] << 16);
          second[lane] = float_from_bits(words[lane] & 0xFFFF0000);
        }
        for (int i = 0; i < rows; ++i) {
          const float x0 = bf16_to_float(x[i * pairs * 2 + pair * 2]);
          const float x1 = bf16_to_float(x[i * pairs * 2 + pair * 2 + 1]);
          for (int lane = 0; lane < kPanelRows; ++lane) {
            const float sum = acc[i][lane] + first[lane] * x0;
            acc[i][lane] = sum + second[lane] * x1;
          }
        }
      }
      for (int i = 0; i < rows; ++i)
        memcpy(args.out + (m + i) * args.out_stride + panel * kPanelRows, acc[i],
               lanes * sizeof(float));
    }
  }
}

}  // namespace stoker::STOKER_ISA
