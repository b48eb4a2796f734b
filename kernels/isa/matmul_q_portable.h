// Quantized products in plain C++ with the 16-byte vectors that GCC and Clang give every processor,
// one row of x and one panel at a time.
#pragma once

#include "isa/kernels.h"

#if defined(__SSE2__)
#include <emmintrin.h>
#endif

namespace stoker::STOKER_ISA {
namespace {

typedef int16_t Shorts __attribute__((vector_size(16)));
typedef uint16_t Words __attribute__((vector_size(16)));
typedef int32_t Ints __attribute__((vector_size(16)));

// Sums of neighbouring products. Each product fits 16 bits (255 · 127 = 32 385).
inline Ints multiply_pairs(Shorts a, Shorts b) {
#if defined(__SSE2__)
  return reinterpret_cast<Ints>(
      _mm_madd_epi16(reinterpret_cast<__m128i>(a), reinterpret_cast<__m128i>(b)));
#else
  const Ints products = reinterpret_cast<Ints>(a * b);
  return ((products << 16) >> 16) + (products >> 16);
#endif
}

// The activations of a column quad, for the even and the odd bytes of four rows of weights.
struct Quad {
  Shorts even, odd;
};

inline Quad quad_of(const int8_t* a) {
  const int16_t a0 = a[0], a1 = a[1], a2 = a[2], a3 = a[3];
  return {Shorts{a0, a2, a0, a2, a0, a2, a0, a2}, Shorts{a1, a3, a1, a3, a1, a3, a1, a3}};
}

inline Ints dot(Words codes, const Quad& x) {
  return multiply_pairs(reinterpret_cast<Shorts>(codes & 255), x.even) +
         multiply_pairs(reinterpret_cast<Shorts>(codes >> 8), x.odd);
}

// Σ code·a of a block for the sixteen rows, onto `sums`.
template <bool q4>
inline void add_block(const uint8_t* codes, const int8_t* a, int32_t* sums) {
  Ints total[4] = {};
  for (int quad = 0; quad < (q4 ? 4 : 8); ++quad) {
    const Quad first = quad_of(a + quad * 4), second = quad_of(a + (q4 ? 16 + quad * 4 : 0));
    for (int rows = 0; rows < 4; ++rows) {
      Words both;
      memcpy(&both, codes + quad * 64 + rows * 16, sizeof both);
      if constexpr (q4)
        total[rows] += dot(both & 0x0F0F, first) + dot((both >> 4) & 0x0F0F, second);
      else
        total[rows] += dot(both, first);
    }
  }
  for (int lane = 0; lane < kPanelRows; ++lane) sums[lane] += total[lane / 4][lane % 4];
}

// 128 · Σ code·outlier of a block that has an outlier quad, onto `sums`.
template <bool q4>
inline void add_outlier(const uint8_t* codes, const ActivationBlock& x, int32_t* sums) {
  const Quad high = quad_of(x.outlier);
  for (int rows = 0; rows < 4; ++rows) {
    Words both;
    memcpy(&both, codes + x.outlier_quad % (q4 ? 4 : 8) * 64 + rows * 16, sizeof both);
    if constexpr (q4) both = (both >> (x.outlier_quad / 4 * 4)) & 0x0F0F;
    const Ints products = dot(both, high);
    for (int i = 0; i < 4; ++i) sums[rows * 4 + i] += products[i] * 128;
  }
}

template <bool q4>
void matmul_quantized(const MatmulArgs& args) {
  constexpr int kCodes = q4 ? 256 : 512;
  const int zero = args.mins ? 0 : q4 ? 8 : 128;
  for (int panel = args.panel_begin; panel < args.panel_end; ++panel) {
    const ptrdiff_t first = static_cast<ptrdiff_t>(panel) * args.blocks;
    const int rows_left = args.rows - panel * kPanelRows;
    const int lanes = rows_left < kPanelRows ? rows_left : kPanelRows;
    for (int m = args.m_begin; m < args.m_end; ++m) {
      const ActivationBlock* x = args.x->quantized + static_cast<ptrdiff_t>(m) * args.blocks;
      float acc[kPanelRows] = {};
      for (int b = 0; b < args.blocks; ++b) {
        int32_t sums[kPanelRows];
        for (int lane = 0; lane < kPanelRows; ++lane) sums[lane] = zero * x[b].neg_sum;
        add_block<q4>(args.codes + (first + b) * kCodes, x[b].codes, sums);
        if (x[b].outlier_quad != kNoOutlier)
          add_outlier<q4>(args.codes + (first + b) * kCodes, x[b], sums);
        const uint16_t* scales = args.scales + (first + b) * kPanelRows;
        for (int lane = 0; lane < kPanelRows; ++lane)
          acc[lane] = __builtin_fmaf(static_cast<float>(sums[lane]),
                                     half_to_float(scales[lane]) * x[b].scale, acc[lane]);
        if (args.mins) {
          const uint16_t* mins = args.mins + (first + b) * kPanelRows;
          for (int lane = 0; lane < kPanelRows; ++lane)
            acc[lane] = __builtin_fmaf(half_to_float(mins[lane]), x[b].scaled_sum, acc[lane]);
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
