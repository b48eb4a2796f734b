// Rounding of activations. Plain loops over elementwise operations, which compilers vectorize for
// each instruction set without changing a bit.
#include "isa/kernels.h"

namespace stoker::STOKER_ISA {
namespace {

constexpr float kSmallest = 1e-30f;       // below this a block is zero; 127 / x stays finite above
constexpr float kMagic = 12582912.0f;     // 1.5 · 2^23: adding it rounds half to even to an integer
constexpr uint32_t kMagicBits = 0x4B400000;
constexpr uint32_t kInfinity = 0x7F800000;
constexpr uint32_t kNan = 0x7FC00000;

struct BlockSum { float scale; int sum; };

BlockSum quantize_block(const float* x, int8_t* codes) {
  uint32_t bits[kBlockCols];
  memcpy(bits, x, sizeof bits);
  uint32_t largest = 0;  // as integers, magnitudes keep their order, and NaN is above all
  for (int i = 0; i < kBlockCols; ++i) {
    const uint32_t magnitude = bits[i] & 0x7FFFFFFF;
    largest = magnitude > largest ? magnitude : largest;
  }
  const float max = float_from_bits(largest);
  if (largest >= kInfinity || max < kSmallest) {
    memset(codes, 0, kBlockCols);
    return {largest >= kInfinity ? float_from_bits(kNan) : 0.0f, 0};
  }
  const float inverse = 127.0f / max;
  int sum = 0;
  for (int i = 0; i < kBlockCols; ++i) {
    const float shifted = x[i] * inverse + kMagic;
    uint32_t shifted_bits;
    memcpy(&shifted_bits, &shifted, sizeof shifted_bits);
    const int code = static_cast<int>(shifted_bits - kMagicBits);
    codes[i] = static_cast<int8_t>(code);
    sum += code;
  }
  return {max / 127.0f, sum};
}

}  // namespace

void round_int8(const float* x, ptrdiff_t x_stride, int row_begin, int row_end,
                const Activations& out) {
  for (int m = row_begin; m < row_end; ++m) {
    const float* row = x + m * x_stride;
    const ptrdiff_t first = static_cast<ptrdiff_t>(m) * out.blocks;
    for (int b = 0; b < out.blocks; ++b) {
      int8_t* codes = out.codes + (first + b) * kBlockCols;
      const int begin = b * kBlockCols;
      BlockSum block;
      if (begin + kBlockCols <= out.cols) {
        block = quantize_block(row + begin, codes);
      } else {
        float padded[kBlockCols] = {};
        memcpy(padded, row + begin, (out.cols - begin) * sizeof(float));
        block = quantize_block(padded, codes);
      }
      out.scales[first + b] = block.scale;
      out.neg_sums[first + b] = -block.sum;
      out.scaled_sums[first + b] = block.scale * static_cast<float>(block.sum);
    }
  }
}

void round_bf16(const float* x, ptrdiff_t x_stride, int row_begin, int row_end,
                const Activations& out) {
  const int padded = out.blocks * kBlockCols;
  for (int m = row_begin; m < row_end; ++m) {
    const float* row = x + m * x_stride;
    uint16_t* values = out.values + static_cast<ptrdiff_t>(m) * padded;
    for (int k = 0; k < out.cols; ++k) values[k] = float_to_bf16(row[k]);
    for (int k = out.cols; k < padded; ++k) values[k] = 0;
  }
}

}  // namespace stoker::STOKER_ISA
