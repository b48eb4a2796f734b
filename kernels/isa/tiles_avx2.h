// What the AVX2 kernels share.
#pragma once

#include <immintrin.h>

#include "isa/tiles.h"

namespace stoker::STOKER_ISA {
namespace {

// Outputs n … n + 7 of row m, as far as the matrix has them.
inline void store_half(const MatmulArgs& args, int m, int n, __m256 values) {
  float* out = args.out + m * args.out_stride + n;
  const int lanes = args.rows - n;
  if (lanes >= 8) return _mm256_storeu_ps(out, values);
  float all[8];
  _mm256_storeu_ps(all, values);
  for (int lane = 0; lane < lanes; ++lane) out[lane] = all[lane];
}

}  // namespace
}  // namespace stoker::STOKER_ISA
