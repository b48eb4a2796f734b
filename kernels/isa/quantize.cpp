// Rounding of activations: elementwise and in integers, so that the bits are the same everywhere.
#include "isa/kernels.h"
#include "isa/simd.h"

#if defined(STOKER_ISA_avx2) || defined(STOKER_ISA_avx512) || defined(STOKER_ISA_amx)
#include <immintrin.h>
#endif

namespace stoker::STOKER_ISA {
namespace {

constexpr float kSmallest = 1e-30f;  // below this a block is zero; 127² / x stays finite above
constexpr uint32_t kInfinity = 0x7F800000;
constexpr uint32_t kNan = 0x7FC00000;

constexpr float kOutlierRatio = 2.0f;  // of a block's largest magnitude to that of the other quads

// The largest magnitude of a block, the quad that holds it, and the largest in the other quads. As
// bits: magnitudes keep their order as integers, and a NaN is above all.
struct Largest {
  uint32_t bits, rest_bits;
  int quad;
};

inline Largest largest_of(const float* x);

// codes = x · inverse, rounded half to even; returns their sum, which counts those of an outlier
// quad whole, though in `codes` they are cut off.
inline int scale_and_round(const float* x, float inverse, int8_t* codes);

// `v` to an integer, rounded half to even; |v| < 2^22.
inline int round_to_int(float v) {
  constexpr float kMagic = 12582912.0f;  // 1.5 · 2^23: adding it rounds to an integer
  constexpr uint32_t kMagicBits = 0x4B400000;
  return static_cast<int>(float_bits(v + kMagic) - kMagicBits);
}

#if defined(STOKER_ISA_avx2) || defined(STOKER_ISA_avx512) || defined(STOKER_ISA_amx)

inline __m256i load_magnitudes(const float* x) {
  return _mm256_and_si256(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(x)),
                          _mm256_set1_epi32(0x7FFFFFFF));
}

// The larger of each two neighbours, in each half of the register first a's, then b's.
inline __m256i max_of_pairs(__m256i a, __m256i b) {
  const __m256 fa = _mm256_castsi256_ps(a), fb = _mm256_castsi256_ps(b);
  return _mm256_max_epu32(_mm256_castps_si256(_mm256_shuffle_ps(fa, fb, 0x88)),
                          _mm256_castps_si256(_mm256_shuffle_ps(fa, fb, 0xDD)));
}

// The largest of eight, in all lanes.
inline __m256i max_of_all(__m256i v) {
  v = _mm256_max_epu32(v, _mm256_permute2x128_si256(v, v, 1));
  v = _mm256_max_epu32(v, _mm256_shuffle_epi32(v, 0x4E));
  return _mm256_max_epu32(v, _mm256_shuffle_epi32(v, 0xB1));
}

inline uint32_t first_lane(__m256i v) {
  return static_cast<uint32_t>(_mm_cvtsi128_si32(_mm256_castsi256_si128(v)));
}

inline Largest largest_of(const float* x) {
  const __m256i quads =  // of each the largest magnitude, in the order 0, 2, 4, 6, 1, 3, 5, 7
      max_of_pairs(max_of_pairs(load_magnitudes(x), load_magnitudes(x + 8)),
                   max_of_pairs(load_magnitudes(x + 16), load_magnitudes(x + 24)));
  const __m256i largest = max_of_all(quads);
  const __m256i held = _mm256_cmpeq_epi32(quads, largest);
  const unsigned holders = _mm256_movemask_ps(_mm256_castsi256_ps(held));
  const int lane = __builtin_ctz(holders), quad = lane % 4 * 2 + lane / 4;
  if (holders & (holders - 1)) return {first_lane(largest), first_lane(largest), quad};
  const __m256i rest = max_of_all(_mm256_andnot_si256(held, quads));
  return {first_lane(largest), first_lane(rest), quad};
}

#else

inline Largest largest_of(const float* x) {
  Largest largest{0, 0, 0};
  for (int quad = 0; quad < kBlockCols / 4; ++quad) {
    uint32_t most = 0;
    for (int i = 0; i < 4; ++i) {
      const uint32_t magnitude = float_bits(x[quad * 4 + i]) & 0x7FFFFFFF;
      most = magnitude > most ? magnitude : most;
    }
    if (most > largest.bits)
      largest = {most, largest.bits, quad};
    else if (most > largest.rest_bits)
      largest.rest_bits = most;
  }
  return largest;
}

#endif

#if defined(STOKER_ISA_avx512) || defined(STOKER_ISA_amx)

inline int scale_and_round(const float* x, float inverse, int8_t* codes) {
  const __m512 scale = _mm512_set1_ps(inverse);
  const __m512i a = _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_loadu_ps(x), scale));
  const __m512i b = _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_loadu_ps(x + 16), scale));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(codes), _mm512_cvtepi32_epi8(a));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(codes + 16), _mm512_cvtepi32_epi8(b));
  return _mm512_reduce_add_epi32(_mm512_add_epi32(a, b));
}

#elif defined(STOKER_ISA_avx2)

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

inline int scale_and_round(const float* x, float inverse, int8_t* codes) {
  int sum = 0;
  for (int i = 0; i < kBlockCols; ++i) {
    const int code = round_to_int(x[i] * inverse);
    codes[i] = static_cast<int8_t>(code);
    sum += code;
  }
  return sum;
}

#endif

// The codes of the outlier quad x, in two parts.
inline void split_outlier(const float* x, float inverse, int8_t* codes, int8_t* outlier) {
  for (int i = 0; i < 4; ++i) {
    const int code = round_to_int(x[i] * inverse);
    const int high = (code + 64) >> 7;
    outlier[i] = static_cast<int8_t>(high);
    codes[i] = static_cast<int8_t>(code - high * 128);
  }
}

// Up to 16 blocks, wherever they lie: their scales are computed side by side, and no block waits for
// a guess whether the one before has an outlier.
struct Together {
  const float* x[kLanes];
  ActivationBlock* out[kLanes];
  int count = 0;
};

inline void quantize(const Together& blocks) {
  alignas(64) float most[kLanes], rest[kLanes], scale[kLanes], inverse[kLanes];
  int quad[kLanes];
  for (int i = 0; i < blocks.count; ++i) {
    const Largest largest = largest_of(blocks.x[i]);
    most[i] = float_from_bits(largest.bits);
    rest[i] = float_from_bits(largest.rest_bits);
    quad[i] = largest.quad;
  }
  for (int i = blocks.count; i < kLanes; ++i) most[i] = rest[i] = 1.0f;

  const Vec maxima = load(most), others = load(rest), steps = splat(127.0f);
  const Mask has_outlier = splat(kOutlierRatio) * others < maxima;
  const Vec range = select(has_outlier, max(others, maxima / steps), maxima);
  store(scale, range / steps);
  store(inverse, steps / range);
  const uint32_t finite = mask_bits(maxima < splat(float_from_bits(kInfinity)));
  const uint32_t usual = finite & ~mask_bits(maxima < splat(kSmallest));
  uint32_t outliers = mask_bits(has_outlier) & usual;

  for (int i = 0; i < blocks.count; ++i) {
    ActivationBlock& out = *blocks.out[i];
    if (!(usual >> i & 1)) {
      out = {};
      out.scale = out.scaled_sum = finite >> i & 1 ? 0.0f : float_from_bits(kNan);
      out.outlier_quad = kNoOutlier;
      continue;
    }
    const int sum = scale_and_round(blocks.x[i], inverse[i], out.codes);
    out.scale = scale[i];
    out.neg_sum = -sum;
    out.scaled_sum = scale[i] * static_cast<float>(sum);
    out.outlier_quad = outliers >> i & 1 ? quad[i] : kNoOutlier;
    memset(out.outlier, 0, sizeof out.outlier);
  }
  for (; outliers; outliers &= outliers - 1) {
    const int i = __builtin_ctz(outliers);
    ActivationBlock& out = *blocks.out[i];
    split_outlier(blocks.x[i] + quad[i] * 4, inverse[i], out.codes + quad[i] * 4, out.outlier);
  }
}

}  // namespace

void round_int8(const float* x, ptrdiff_t x_stride, int row_begin, int row_end,
                const Activations& out) {
  const int whole = out.cols / kBlockCols;
  Together blocks;
  for (int m = row_begin; m < row_end; ++m) {
    const float* row = x + m * x_stride;
    ActivationBlock* to = out.quantized + static_cast<ptrdiff_t>(m) * out.row_blocks;
    for (int b = 0; b < whole; ++b) {
      blocks.x[blocks.count] = row + b * kBlockCols;
      blocks.out[blocks.count] = to + b;
      if (++blocks.count < kLanes) continue;
      quantize(blocks);
      blocks.count = 0;
    }
  }
  if (blocks.count > 0) quantize(blocks);
  if (whole == out.blocks) return;
  for (int m = row_begin; m < row_end; ++m) {
    float padded[kBlockCols] = {};
    memcpy(padded, x + m * x_stride + whole * kBlockCols,
           (out.cols - whole * kBlockCols) * sizeof(float));
    blocks.x[0] = padded;
    blocks.out[0] = out.quantized + static_cast<ptrdiff_t>(m) * out.row_blocks + whole;
    blocks.count = 1;
    quantize(blocks);
  }
}

void round_bf16(const float* x, ptrdiff_t x_stride, int row_begin, int row_end,
                const Activations& out) {
  const int padded = out.blocks * kBlockCols;
  for (int m = row_begin; m < row_end; ++m) {
    const float* row = x + m * x_stride;
    uint16_t* values = out.values + static_cast<ptrdiff_t>(m) * out.row_blocks * kBlockCols;
    for (int k = 0; k < out.cols; ++k) values[k] = float_to_bf16(row[k]);
    for (int k = out.cols; k < padded; ++k) values[k] = 0;
  }
}

}  // namespace stoker::STOKER_ISA
