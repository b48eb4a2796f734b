// Rounding of activations: one block, or one vector, after the other, elementwise and in integers,
// so that the bits are the same everywhere.
#include "isa/kernels.h"

#if defined(STOKER_ISA_avx2) || defined(STOKER_ISA_avx512) || defined(STOKER_ISA_amx)
#include <immintrin.h>
#endif

namespace stoker::STOKER_ISA {
namespace {

constexpr float kSmallest = 1e-30f;  // below this a block is zero; 127 / x stays finite above
constexpr uint32_t kInfinity = 0x7F800000;
constexpr uint32_t kNan = 0x7FC00000;

// The largest magnitude of a block, as bits: magnitudes keep their order as integers, and a NaN is
// above all.
inline uint32_t largest_bits(const float* x);

// codes = x · inverse, rounded half to even; returns their sum.
inline int scale_and_round(const float* x, float inverse, int8_t* codes);

#if defined(STOKER_ISA_avx512) || defined(STOKER_ISA_amx)

inline uint32_t largest_bits(const float* x) {
  const __m512i magnitude = _mm512_set1_epi32(0x7FFFFFFF);
  const __m512i a = _mm512_and_si512(_mm512_loadu_si512(x), magnitude);
  const __m512i b = _mm512_and_si512(_mm512_loadu_si512(x + 16), magnitude);
  return _mm512_reduce_max_epu32(_mm512_max_epu32(a, b));
}

inline int scale_and_round(const float* x, float inverse, int8_t* codes) {
  const __m512 scale = _mm512_set1_ps(inverse);
  const __m512i a = _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_loadu_ps(x), scale));
  const __m512i b = _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_loadu_ps(x + 16), scale));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(codes), _mm512_cvtepi32_epi8(a));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(codes + 16), _mm512_cvtepi32_epi8(b));
  return _mm512_reduce_add_epi32(_mm512_add_epi32(a, b));
}

#elif defined(STOKER_ISA_avx2)

inline uint32_t largest_bits(const float* x) {
  const __m256i magnitude = _mm256_set1_epi32(0x7FFFFFFF);
  __m256i most = _mm256_setzero_si256();
  for (int i = 0; i < kBlockCols; i += 8) {
    const __m256i v = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(x + i));
    most = _mm256_max_epu32(most, _mm256_and_si256(v, magnitude));
  }
  __m128i half = _mm_max_epu32(_mm256_castsi256_si128(most), _mm256_extracti128_si256(most, 1));
  half = _mm_max_epu32(half, _mm_shuffle_epi32(half, 0x4E));
  half = _mm_max_epu32(half, _mm_shuffle_epi32(half, 0xB1));
  return static_cast<uint32_t>(_mm_cvtsi128_si32(half));
}

inline int scale_and_round(const float* x, float inverse, int8_t* codes) {
  const __m256 scale = _mm256_set1_ps(inverse);
  __m256i q[4];
  for (int i = 0; i < 4; ++i)
    q[i] = _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(x + i * 8), scale));
  // The packs work within halves of the register; the permutation restores the order.
  const __m256i packed =
      _mm256_packs_epi16(_mm256_packs_epi32(q[0], q[1]), _mm256_packs_epi32(q[2], q[3]));
  const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(codes),
                      _mm256_permutevar8x32_epi32(packed, order));
  const __m256i sums = _mm256_add_epi32(_mm256_add_epi32(q[0], q[1]), _mm256_add_epi32(q[2], q[3]));
  __m128i half = _mm_add_epi32(_mm256_castsi256_si128(sums), _mm256_extracti128_si256(sums, 1));
  half = _mm_add_epi32(half, _mm_shuffle_epi32(half, 0x4E));
  half = _mm_add_epi32(half, _mm_shuffle_epi32(half, 0xB1));
  return _mm_cvtsi128_si32(half);
}

#else

inline uint32_t largest_bits(const float* x) {
  uint32_t largest = 0;
  for (int i = 0; i < kBlockCols; ++i) {
    const uint32_t magnitude = float_bits(x[i]) & 0x7FFFFFFF;
    largest = magnitude > largest ? magnitude : largest;
  }
  return largest;
}

inline int scale_and_round(const float* x, float inverse, int8_t* codes) {
  constexpr float kMagic = 12582912.0f;  // 1.5 · 2^23: adding it rounds to an integer
  constexpr uint32_t kMagicBits = 0x4B400000;
  int sum = 0;
  for (int i = 0; i < kBlockCols; ++i) {
    const int code = static_cast<int>(float_bits(x[i] * inverse + kMagic) - kMagicBits);
    codes[i] = static_cast<int8_t>(code);
    sum += code;
  }
  return sum;
}

#endif

inline void quantize_block(const float* x, ActivationBlock& out) {
  const uint32_t largest = largest_bits(x);
  const float max = float_from_bits(largest);
  if (largest >= kInfinity || max < kSmallest) {
    out = {};
    out.scale = out.scaled_sum = largest >= kInfinity ? float_from_bits(kNan) : 0.0f;
    return;
  }
  const int sum = scale_and_round(x, 127.0f / max, out.codes);
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
