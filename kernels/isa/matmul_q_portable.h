// Quantized products in plain C++, one row of x and one panel at a time.
#pragma once

#include "isa/kernels.h"

namespace stoker::STOKER_ISA {
namespace {

// Byte codes of a block, [8 quads][16 rows][4], from either format.
const uint8_t* byte_codes(const uint8_t* codes, bool q4, uint8_t* unpacked) {
  if (!q4) return codes;
  for (int i = 0; i < 256; ++i) {
    unpacked[i] = codes[i] & 15;
    unpacked[256 + i] = codes[i] >> 4;
  }
  return unpacked;
}

template <bool q4>
void matmul_quantized(const MatmulArgs& args) {
  constexpr int kCodes = q4 ? 256 : 512;
  const int zero = args.mins ? 0 : q4 ? 8 : 128;
  const Activations& x = *args.x;
  for (int panel = args.panel_begin; panel < args.panel_end; ++panel) {
    const ptrdiff_t first = static_cast<ptrdiff_t>(panel) * args.blocks;
    const int lanes =
        args.rows - panel * kPanelRows < kPanelRows ? args.rows - panel * kPanelRows : kPanelRows;
    for (int m = args.m_begin; m < args.m_end; ++m) {
      float acc[kPanelRows] = {};
      for (int b = 0; b < args.blocks; ++b) {
        const ActivationBlock& xb = x.quantized[static_cast<ptrdiff_t>(m) * x.blocks + b];
        uint8_t unpacked[512];
        const uint8_t* codes = byte_codes(args.codes + (first + b) * kCodes, q4, unpacked);
        int sums[kPanelRows];
        for (int lane = 0; lane < kPanelRows; ++lane) sums[lane] = zero * xb.neg_sum;
        for (int quad = 0; quad < 8; ++quad)
          for (int lane = 0; lane < kPanelRows; ++lane) {
            const uint8_t* w = codes + quad * 64 + lane * 4;
            const int8_t* v = xb.codes + quad * 4;
            sums[lane] += w[0] * v[0] + w[1] * v[1] + w[2] * v[2] + w[3] * v[3];
          }
        const uint16_t* scales = args.scales + (first + b) * kPanelRows;
        for (int lane = 0; lane < kPanelRows; ++lane)
          acc[lane] = __builtin_fmaf(static_cast<float>(sums[lane]),
                                     half_to_float(scales[lane]) * xb.scale, acc[lane]);
        if (args.mins) {
          const uint16_t* mins = args.mins + (first + b) * kPanelRows;
          for (int lane = 0; lane < kPanelRows; ++lane)
            acc[lane] = __builtin_fmaf(half_to_float(mins[lane]), xb.scaled_sum, acc[lane]);
        }
      }
      memcpy(args.out + m * args.out_stride + panel * kPanelRows, acc, lanes * sizeof(float));
    }
  }
}

}  // namespace

void matmul_q4(const MatmulArgs& args) { matmul_quantized<true>(args); }
void matmul_q8(const MatmulArgs& args) { matmul_quantized<false>(args); }

}  // namespace stoker::STOKER_ISA
