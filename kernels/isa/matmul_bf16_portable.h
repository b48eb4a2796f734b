// bf16 products in plain C++, which compilers vectorize over the 16 rows of a panel.
#pragma once

#include "isa/kernels.h"

namespace stoker::STOKER_ISA {

// A product of two bf16 is exact in float32, so multiply-then-add rounds once, as fma does.
void matmul_bf16(const MatmulArgs& args) {
  const Activations& x = *args.x;
  const auto* weights = reinterpret_cast<const uint16_t*>(args.codes);
  const int pairs = args.blocks * kBlockCols / 2;
  for (int panel = args.panel_begin; panel < args.panel_end; ++panel) {
    const uint16_t* first = weights + static_cast<ptrdiff_t>(panel) * pairs * 2 * kPanelRows;
    const int lanes =
        args.rows - panel * kPanelRows < kPanelRows ? args.rows - panel * kPanelRows : kPanelRows;
    for (int m = args.m_begin; m < args.m_end; ++m) {
      const uint16_t* a = x.values + static_cast<ptrdiff_t>(m) * pairs * 2;
      float acc[kPanelRows] = {};
      for (int pair = 0; pair < pairs; ++pair) {
        const uint16_t* w = first + static_cast<ptrdiff_t>(pair) * 2 * kPanelRows;
        const float a0 = bf16_to_float(a[pair * 2]), a1 = bf16_to_float(a[pair * 2 + 1]);
        for (int lane = 0; lane < kPanelRows; ++lane) {
          acc[lane] += bf16_to_float(w[lane * 2]) * a0;
          acc[lane] += bf16_to_float(w[lane * 2 + 1]) * a1;
        }
      }
      memcpy(args.out + m * args.out_stride + panel * kPanelRows, acc, lanes * sizeof(float));
    }
  }
}

}  // namespace stoker::STOKER_ISA
