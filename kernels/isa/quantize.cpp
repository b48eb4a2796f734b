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

void quantize_block(const float* x, ActivationBlock& out) {
  uint32_t bits[kBlockCols];
  memcpy(bits, x, sizeof bits);
  uint32_t largest = 0;  // as integers, magnitudes keep their order, and NaN is above all
  for (int i = 0; i < kBlockCols; ++i) {
    const uint32_t magnitude = bits[i] & 0x7FFFFFFF;
    largest = magnitude > largest ? magnitude : largest;
  }
  const float max = float_from_bits(largest);
  if (largest >= kInfinity || max < kSmallest) {
    out = {};
    out.scale = out.scaled_sum = largest >= kInfinity ? float_from_bits(kNan) : 0.0f;
    return;
  }
  const float inverse = 127.0f / max;
  int sum = 0;
  for (int i = 0; i < kBlockCols; ++i) {
    const float shifted = x[i] * inverse + kMagic;
    uint32_t shifted_bits;
    memcpy(&shifted_bits, &shifted, sizeof shifted_bits);
    const int code = static_cast<int>(shifted_bits - kMagicBits);
    out.codes[i] = static_cast<int8_t>(code);
    sum += code;
  }
  out.scale = max / 127.0f;
  out.neg_sum = -sum;
  out.scaled_sum = out.scale * static_cast<float>(sum);
  out.padding = 0;
}

}  // namespace

void round_int8(const float* x, ptrdiff_t x_stride, int row_begin, int row_end,
                const Activations& out) {
  for (int m = row_begin; m < row_end; ++m) {
    const float* row = x + m * x_stride;
    ActivationBlock* blocks = out.quantized + static_cast<ptrdiff_t>(m) * out.blocks;
    const int whole = out.cols / kBlockCols;
    for (int b = 0; b < whole; ++b) quantize_block(row + b * kBlockCols, blocks[b]);
    if (whole < out.blocks) {
      float padded[kBlockCols] = {};
      memcpy(padded, row + whole * kBlockCols, (out.cols - whole * kBlockCols) * sizeof(float));
      quantize_block(padded, blocks[whole]);
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
