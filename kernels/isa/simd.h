// Sixteen float lanes on every instruction set, with the same bits on each.
//
// Kernels are written once over `Vec`: one AVX-512 register, two AVX2 registers, or an array. All
// operations are IEEE single precision with one rounding each (`fma` included), reductions run in
// one fixed order, and `exp` is our own polynomial, so a kernel computes the same bits wherever it
// runs. Only plain code here: a function of the standard library that the compiler emits out of
// line could be linked from another instruction set's object file.
#pragma once

#include <cstdint>
#include <cstring>

#if defined(STOKER_ISA_avx512) || defined(STOKER_ISA_amx)
#define STOKER_SIMD_512 1
#include <immintrin.h>
#elif defined(STOKER_ISA_avx2)
#define STOKER_SIMD_256 1
#include <immintrin.h>
#else
#define STOKER_SIMD_ARRAY 1
#endif

#define STOKER_INLINE static inline __attribute__((always_inline))

namespace stoker::STOKER_ISA {
namespace {

constexpr int kLanes = 16;

STOKER_INLINE uint32_t float_bits(float x) {
  uint32_t u;
  __builtin_memcpy(&u, &x, 4);
  return u;
}
STOKER_INLINE float bits_float(uint32_t u) {
  float x;
  __builtin_memcpy(&x, &u, 4);
  return x;
}
STOKER_INLINE float bf16_to_float(uint16_t x) { return bits_float(uint32_t{x} << 16); }
// Round to nearest even; a NaN stays one.
STOKER_INLINE uint16_t float_to_bf16(float x) {
  const uint32_t u = float_bits(x);
  if (x != x) return static_cast<uint16_t>((u >> 16) | 0x40);
  return static_cast<uint16_t>((u + 0x7fff + ((u >> 16) & 1)) >> 16);
}

#if defined(STOKER_SIMD_512)

struct Vec {
  __m512 v;
};
// Sixteen 32-bit words: integers, or pairs of bf16.
struct Words {
  __m512i v;
};
struct Mask {
  __mmask16 m;
};

STOKER_INLINE Vec splat(float x) { return {_mm512_set1_ps(x)}; }
STOKER_INLINE Vec load(const float* p) { return {_mm512_loadu_ps(p)}; }
STOKER_INLINE void store(float* p, Vec a) { _mm512_storeu_ps(p, a.v); }
STOKER_INLINE __mmask16 first(int n) { return static_cast<__mmask16>((1u << n) - 1u); }
// The first n < 16 lanes, zeros after them.
STOKER_INLINE Vec load_first(const float* p, int n) { return {_mm512_maskz_loadu_ps(first(n), p)}; }
STOKER_INLINE void store_first(float* p, Vec a, int n) { _mm512_mask_storeu_ps(p, first(n), a.v); }
STOKER_INLINE Vec operator+(Vec a, Vec b) { return {_mm512_add_ps(a.v, b.v)}; }
STOKER_INLINE Vec operator-(Vec a, Vec b) { return {_mm512_sub_ps(a.v, b.v)}; }
STOKER_INLINE Vec operator*(Vec a, Vec b) { return {_mm512_mul_ps(a.v, b.v)}; }
STOKER_INLINE Vec operator/(Vec a, Vec b) { return {_mm512_div_ps(a.v, b.v)}; }
STOKER_INLINE Vec fma(Vec a, Vec b, Vec c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
// a > b ? a : b, so b where either is a NaN.
STOKER_INLINE Vec max(Vec a, Vec b) { return {_mm512_max_ps(a.v, b.v)}; }
STOKER_INLINE Vec min(Vec a, Vec b) { return {_mm512_min_ps(a.v, b.v)}; }
STOKER_INLINE Mask operator<(Vec a, Vec b) { return {_mm512_cmp_ps_mask(a.v, b.v, _CMP_LT_OQ)}; }
STOKER_INLINE Mask lanes_between(int begin, int end) {
  return {static_cast<__mmask16>(((1u << end) - 1u) & ~((1u << begin) - 1u))};
}
STOKER_INLINE uint32_t mask_bits(Mask m) { return m.m; }
// m ? a : b
STOKER_INLINE Vec select(Mask m, Vec a, Vec b) { return {_mm512_mask_blend_ps(m.m, b.v, a.v)}; }
STOKER_INLINE Words load_words(const uint32_t* p) { return {_mm512_loadu_si512(p)}; }
STOKER_INLINE void store_words(uint32_t* p, Words a) { _mm512_storeu_si512(p, a.v); }
STOKER_INLINE Words splat_word(uint32_t x) { return {_mm512_set1_epi32(static_cast<int>(x))}; }
STOKER_INLINE Words operator&(Words a, Words b) { return {_mm512_and_si512(a.v, b.v)}; }
STOKER_INLINE Words operator|(Words a, Words b) { return {_mm512_or_si512(a.v, b.v)}; }
STOKER_INLINE Words operator+(Words a, Words b) { return {_mm512_add_epi32(a.v, b.v)}; }
template <int kBits>
STOKER_INLINE Words shift_left(Words a) {
  return {_mm512_slli_epi32(a.v, kBits)};
}
template <int kBits>
STOKER_INLINE Words shift_right(Words a) {
  return {_mm512_srli_epi32(a.v, kBits)};
}
STOKER_INLINE Words as_words(Vec a) { return {_mm512_castps_si512(a.v)}; }
STOKER_INLINE Vec as_floats(Words a) { return {_mm512_castsi512_ps(a.v)}; }
STOKER_INLINE Words load_u16(const uint16_t* p) {
  return {_mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)))};
}
// The low halves of the words.
STOKER_INLINE void store_u16(uint16_t* p, Words a) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtepi32_epi16(a.v));
}
// The lowest bytes of the words.
STOKER_INLINE void store_u8(uint8_t* p, Words a) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtepi32_epi8(a.v));
}
// Pairs of signed bytes as pairs of 16-bit integers.
STOKER_INLINE Words load_byte_pairs(const uint8_t* p) {
  return {_mm512_cvtepi8_epi16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)))};
}
// acc + low·low + high·high of pairs of 16-bit integers.
STOKER_INLINE Words dot_int_pairs(Words acc, Words a, Words b) {
  return {_mm512_dpwssd_epi32(acc.v, a.v, b.v)};
}
STOKER_INLINE Vec to_floats(Words a) { return {_mm512_cvtepi32_ps(a.v)}; }

#elif defined(STOKER_SIMD_256)

struct Vec {
  __m256 a, b;
};
struct Words {
  __m256i a, b;
};
struct Mask {
  __m256 a, b;
};

STOKER_INLINE Vec splat(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
STOKER_INLINE Vec load(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
STOKER_INLINE void store(float* p, Vec x) {
  _mm256_storeu_ps(p, x.a);
  _mm256_storeu_ps(p + 8, x.b);
}
STOKER_INLINE __m256i lanes_below(int n) {  // all ones in lanes 0 … n - 1
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
STOKER_INLINE Vec load_first(const float* p, int n) {
  const Vec zero = splat(0.0f);
  return {n > 0 ? _mm256_maskload_ps(p, lanes_below(n)) : zero.a,
          n > 8 ? _mm256_maskload_ps(p + 8, lanes_below(n - 8)) : zero.b};
}
STOKER_INLINE void store_first(float* p, Vec x, int n) {
  if (n > 0) _mm256_maskstore_ps(p, lanes_below(n), x.a);
  if (n > 8) _mm256_maskstore_ps(p + 8, lanes_below(n - 8), x.b);
}
STOKER_INLINE Vec operator+(Vec x, Vec y) {
  return {_mm256_add_ps(x.a, y.a), _mm256_add_ps(x.b, y.b)};
}
STOKER_INLINE Vec operator-(Vec x, Vec y) {
  return {_mm256_sub_ps(x.a, y.a), _mm256_sub_ps(x.b, y.b)};
}
STOKER_INLINE Vec operator*(Vec x, Vec y) {
  return {_mm256_mul_ps(x.a, y.a), _mm256_mul_ps(x.b, y.b)};
}
STOKER_INLINE Vec operator/(Vec x, Vec y) {
  return {_mm256_div_ps(x.a, y.a), _mm256_div_ps(x.b, y.b)};
}
STOKER_INLINE Vec fma(Vec x, Vec y, Vec z) {
  return {_mm256_fmadd_ps(x.a, y.a, z.a), _mm256_fmadd_ps(x.b, y.b, z.b)};
}
STOKER_INLINE Vec max(Vec x, Vec y) { return {_mm256_max_ps(x.a, y.a), _mm256_max_ps(x.b, y.b)}; }
STOKER_INLINE Vec min(Vec x, Vec y) { return {_mm256_min_ps(x.a, y.a), _mm256_min_ps(x.b, y.b)}; }
STOKER_INLINE Mask operator<(Vec x, Vec y) {
  return {_mm256_cmp_ps(x.a, y.a, _CMP_LT_OQ), _mm256_cmp_ps(x.b, y.b, _CMP_LT_OQ)};
}
STOKER_INLINE Mask lanes_between(int begin, int end) {
  return {_mm256_castsi256_ps(_mm256_andnot_si256(lanes_below(begin), lanes_below(end))),
          _mm256_castsi256_ps(_mm256_andnot_si256(lanes_below(begin - 8), lanes_below(end - 8)))};
}
STOKER_INLINE uint32_t mask_bits(Mask m) {
  return static_cast<uint32_t>(_mm256_movemask_ps(m.a)) |
         static_cast<uint32_t>(_mm256_movemask_ps(m.b)) << 8;
}
STOKER_INLINE Vec select(Mask m, Vec x, Vec y) {
  return {_mm256_blendv_ps(y.a, x.a, m.a), _mm256_blendv_ps(y.b, x.b, m.b)};
}
STOKER_INLINE __m256i load_256(const void* p) {
  return _mm256_loadu_si256(static_cast<const __m256i*>(p));
}
STOKER_INLINE Words load_words(const uint32_t* p) { return {load_256(p), load_256(p + 8)}; }
STOKER_INLINE void store_words(uint32_t* p, Words x) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), x.a);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p + 8), x.b);
}
STOKER_INLINE Words splat_word(uint32_t x) {
  return {_mm256_set1_epi32(static_cast<int>(x)), _mm256_set1_epi32(static_cast<int>(x))};
}
STOKER_INLINE Words operator&(Words x, Words y) {
  return {_mm256_and_si256(x.a, y.a), _mm256_and_si256(x.b, y.b)};
}
STOKER_INLINE Words operator|(Words x, Words y) {
  return {_mm256_or_si256(x.a, y.a), _mm256_or_si256(x.b, y.b)};
}
STOKER_INLINE Words operator+(Words x, Words y) {
  return {_mm256_add_epi32(x.a, y.a), _mm256_add_epi32(x.b, y.b)};
}
template <int kBits>
STOKER_INLINE Words shift_left(Words x) {
  return {_mm256_slli_epi32(x.a, kBits), _mm256_slli_epi32(x.b, kBits)};
}
template <int kBits>
STOKER_INLINE Words shift_right(Words x) {
  return {_mm256_srli_epi32(x.a, kBits), _mm256_srli_epi32(x.b, kBits)};
}
STOKER_INLINE Words as_words(Vec x) { return {_mm256_castps_si256(x.a), _mm256_castps_si256(x.b)}; }
STOKER_INLINE Vec as_floats(Words x) {
  return {_mm256_castsi256_ps(x.a), _mm256_castsi256_ps(x.b)};
}
STOKER_INLINE Words load_u16(const uint16_t* p) {
  const __m256i x = load_256(p);
  return {_mm256_cvtepu16_epi32(_mm256_castsi256_si128(x)),
          _mm256_cvtepu16_epi32(_mm256_extracti128_si256(x, 1))};
}
STOKER_INLINE void store_u16(uint16_t* p, Words x) {
  const __m256i low = _mm256_set1_epi32(0xffff);
  const __m256i packed =
      _mm256_packus_epi32(_mm256_and_si256(x.a, low), _mm256_and_si256(x.b, low));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm256_permute4x64_epi64(packed, 0xd8));
}
STOKER_INLINE void store_u8(uint8_t* p, Words x) {
  const __m256i low = _mm256_set1_epi32(0xff);
  const __m256i halves =
      _mm256_packus_epi32(_mm256_and_si256(x.a, low), _mm256_and_si256(x.b, low));
  const __m256i ordered = _mm256_permute4x64_epi64(halves, 0xd8);
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p),
                   _mm_packus_epi16(_mm256_castsi256_si128(ordered),
                                    _mm256_extracti128_si256(ordered, 1)));
}
STOKER_INLINE Words load_byte_pairs(const uint8_t* p) {
  const __m256i x = load_256(p);
  return {_mm256_cvtepi8_epi16(_mm256_castsi256_si128(x)),
          _mm256_cvtepi8_epi16(_mm256_extracti128_si256(x, 1))};
}
STOKER_INLINE Words dot_int_pairs(Words acc, Words x, Words y) {
  return {_mm256_add_epi32(acc.a, _mm256_madd_epi16(x.a, y.a)),
          _mm256_add_epi32(acc.b, _mm256_madd_epi16(x.b, y.b))};
}
STOKER_INLINE Vec to_floats(Words x) { return {_mm256_cvtepi32_ps(x.a), _mm256_cvtepi32_ps(x.b)}; }

#else

struct Vec {
  float v[kLanes];
};
struct Words {
  uint32_t v[kLanes];
};
struct Mask {
  uint32_t bits;
};

#define STOKER_LANES(type, expression)          \
  type r;                                       \
  for (int i = 0; i < kLanes; ++i) r.v[i] = (expression); \
  return r

STOKER_INLINE Vec splat(float x) { STOKER_LANES(Vec, x); }
STOKER_INLINE Vec load(const float* p) { STOKER_LANES(Vec, p[i]); }
STOKER_INLINE void store(float* p, Vec a) {
  for (int i = 0; i < kLanes; ++i) p[i] = a.v[i];
}
STOKER_INLINE Vec load_first(const float* p, int n) { STOKER_LANES(Vec, i < n ? p[i] : 0.0f); }
STOKER_INLINE void store_first(float* p, Vec a, int n) {
  for (int i = 0; i < n; ++i) p[i] = a.v[i];
}
STOKER_INLINE Vec operator+(Vec a, Vec b) { STOKER_LANES(Vec, a.v[i] + b.v[i]); }
STOKER_INLINE Vec operator-(Vec a, Vec b) { STOKER_LANES(Vec, a.v[i] - b.v[i]); }
STOKER_INLINE Vec operator*(Vec a, Vec b) { STOKER_LANES(Vec, a.v[i] * b.v[i]); }
STOKER_INLINE Vec operator/(Vec a, Vec b) { STOKER_LANES(Vec, a.v[i] / b.v[i]); }
STOKER_INLINE Vec fma(Vec a, Vec b, Vec c) {
  STOKER_LANES(Vec, __builtin_fmaf(a.v[i], b.v[i], c.v[i]));
}
STOKER_INLINE Vec max(Vec a, Vec b) { STOKER_LANES(Vec, a.v[i] > b.v[i] ? a.v[i] : b.v[i]); }
STOKER_INLINE Vec min(Vec a, Vec b) { STOKER_LANES(Vec, a.v[i] < b.v[i] ? a.v[i] : b.v[i]); }
STOKER_INLINE Mask operator<(Vec a, Vec b) {
  Mask m{0};
  for (int i = 0; i < kLanes; ++i) m.bits |= static_cast<uint32_t>(a.v[i] < b.v[i]) << i;
  return m;
}
STOKER_INLINE Mask lanes_between(int begin, int end) {
  return {((1u << end) - 1u) & ~((1u << begin) - 1u)};
}
STOKER_INLINE uint32_t mask_bits(Mask m) { return m.bits; }
STOKER_INLINE Vec select(Mask m, Vec a, Vec b) {
  STOKER_LANES(Vec, (m.bits >> i & 1) ? a.v[i] : b.v[i]);
}
STOKER_INLINE Words load_words(const uint32_t* p) { STOKER_LANES(Words, p[i]); }
STOKER_INLINE void store_words(uint32_t* p, Words a) {
  for (int i = 0; i < kLanes; ++i) p[i] = a.v[i];
}
STOKER_INLINE Words splat_word(uint32_t x) { STOKER_LANES(Words, x); }
STOKER_INLINE Words operator&(Words a, Words b) { STOKER_LANES(Words, a.v[i] & b.v[i]); }
STOKER_INLINE Words operator|(Words a, Words b) { STOKER_LANES(Words, a.v[i] | b.v[i]); }
STOKER_INLINE Words operator+(Words a, Words b) { STOKER_LANES(Words, a.v[i] + b.v[i]); }
template <int kBits>
STOKER_INLINE Words shift_left(Words a) {
  STOKER_LANES(Words, a.v[i] << kBits);
}
template <int kBits>
STOKER_INLINE Words shift_right(Words a) {
  STOKER_LANES(Words, a.v[i] >> kBits);
}
STOKER_INLINE Words as_words(Vec a) { STOKER_LANES(Words, float_bits(a.v[i])); }
STOKER_INLINE Vec as_floats(Words a) { STOKER_LANES(Vec, bits_float(a.v[i])); }
STOKER_INLINE Words load_u16(const uint16_t* p) { STOKER_LANES(Words, p[i]); }
STOKER_INLINE void store_u16(uint16_t* p, Words a) {
  for (int i = 0; i < kLanes; ++i) p[i] = static_cast<uint16_t>(a.v[i]);
}
STOKER_INLINE void store_u8(uint8_t* p, Words a) {
  for (int i = 0; i < kLanes; ++i) p[i] = static_cast<uint8_t>(a.v[i]);
}
STOKER_INLINE uint32_t pair_of_bytes(const uint8_t* p) {
  const auto low = static_cast<uint16_t>(static_cast<int8_t>(p[0]));
  const auto high = static_cast<uint16_t>(static_cast<int8_t>(p[1]));
  return low | static_cast<uint32_t>(high) << 16;
}
STOKER_INLINE Words load_byte_pairs(const uint8_t* p) {
  STOKER_LANES(Words, pair_of_bytes(p + 2 * i));
}
STOKER_INLINE uint32_t int_pair_product(uint32_t a, uint32_t b) {
  const int low = static_cast<int16_t>(a) * static_cast<int16_t>(b);
  const int high = static_cast<int16_t>(a >> 16) * static_cast<int16_t>(b >> 16);
  return static_cast<uint32_t>(low) + static_cast<uint32_t>(high);
}
STOKER_INLINE Words dot_int_pairs(Words acc, Words a, Words b) {
  STOKER_LANES(Words, acc.v[i] + int_pair_product(a.v[i], b.v[i]));
}
STOKER_INLINE Vec to_floats(Words a) {
  STOKER_LANES(Vec, static_cast<float>(static_cast<int32_t>(a.v[i])));
}
#undef STOKER_LANES

#endif

// ---- built from the above, alike on every instruction set ----

STOKER_INLINE Vec load_bf16(const uint16_t* p) { return as_floats(shift_left<16>(load_u16(p))); }

// Rounds to nearest even, each in the low half of its word; a NaN stays one.
STOKER_INLINE Words round_bf16(Vec a) {
  const Words u = as_words(a);
  const Words rounded = u + splat_word(0x7fff) + (shift_right<16>(u) & splat_word(1));
  const Words quiet = u | splat_word(0x400000);
  // A number is below +inf or above -inf; a NaN is neither.
  const Vec number = as_floats(rounded);
  const Mask below = a < splat(__builtin_inff()), above = splat(-__builtin_inff()) < a;
  return shift_right<16>(
      as_words(select(below, number, select(above, number, as_floats(quiet)))));
}
STOKER_INLINE void store_bf16(uint16_t* p, Vec a) { store_u16(p, round_bf16(a)); }

// Stores numbers, none of them denormal, as bf16, and returns what was stored.
STOKER_INLINE Vec store_rounded(uint16_t* p, Vec a) {
#if defined(STOKER_SIMD_512) && defined(__AVX512BF16__)
  const __m256i rounded = (__m256i)_mm512_cvtneps_pbh(a.v);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), rounded);
  return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(rounded), 16))};
#else
  const Words rounded = round_bf16(a);
  store_u16(p, rounded);
  return as_floats(shift_left<16>(rounded));
#endif
}

// acc + even·even + odd·odd of bf16 pairs in fp32, the odd product first, each with one rounding:
// what the instruction VDPBF16PS computes.
STOKER_INLINE Vec dot_pairs(Vec acc, Words a, Words b) {
#if defined(STOKER_SIMD_512) && defined(__AVX512BF16__)
  return {_mm512_dpbf16_ps(acc.v, (__m512bh)a.v, (__m512bh)b.v)};
#else
  const Words high = splat_word(0xffff0000u);
  const Vec odd = fma(as_floats(a & high), as_floats(b & high), acc);
  return fma(as_floats(shift_left<16>(a)), as_floats(shift_left<16>(b)), odd);
#endif
}

// To the nearest integer, ties to even, for magnitudes below 2^22.
STOKER_INLINE Words round_to_int(Vec a) {
  return as_words(a + splat(0x1.8p23f)) + splat_word(0u - 0x4b400000u);
}

// Sum of the lanes: halves, quarters, pairs, neighbours. The greatest lane likewise.
#if defined(STOKER_SIMD_512) || defined(STOKER_SIMD_256)
STOKER_INLINE __m256 lower_half(Vec a) {
#if defined(STOKER_SIMD_512)
  return _mm512_castps512_ps256(a.v);
#else
  return a.a;
#endif
}
STOKER_INLINE __m256 upper_half(Vec a) {
#if defined(STOKER_SIMD_512)
  return _mm512_extractf32x8_ps(a.v, 1);
#else
  return a.b;
#endif
}
STOKER_INLINE float reduce_add(Vec a) {
  const __m256 x = _mm256_add_ps(lower_half(a), upper_half(a));
  const __m128 y = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
  const __m128 z = _mm_add_ps(y, _mm_movehl_ps(y, y));
  return _mm_cvtss_f32(_mm_add_ss(z, _mm_movehdup_ps(z)));
}
STOKER_INLINE float reduce_max(Vec a) {
  const __m256 x = _mm256_max_ps(lower_half(a), upper_half(a));
  const __m128 y = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
  const __m128 z = _mm_max_ps(y, _mm_movehl_ps(y, y));
  return _mm_cvtss_f32(_mm_max_ss(z, _mm_movehdup_ps(z)));
}
#else
STOKER_INLINE float reduce_add(Vec a) {
  for (int half = kLanes / 2; half > 0; half /= 2)
    for (int i = 0; i < half; ++i) a.v[i] = a.v[i] + a.v[i + half];
  return a.v[0];
}
STOKER_INLINE float reduce_max(Vec a) {
  for (int half = kLanes / 2; half > 0; half /= 2)
    for (int i = 0; i < half; ++i) a.v[i] = a.v[i] > a.v[i + half] ? a.v[i] : a.v[i + half];
  return a.v[0];
}
#endif

// e^x to about one unit in the last place; 0 below -87.3, and e^88.3 above that.
// Range reduction by powers of two and a polynomial after Cephes' expf.
STOKER_INLINE Vec exp(Vec x) {
  const Vec low = splat(-87.33654f);
  const Vec y = min(splat(88.37626f), max(low, x));
  const Vec magic = splat(0x1.8p23f);  // adding it rounds to an integer in the low mantissa bits
  const Vec shifted = fma(y, splat(1.44269504f), magic);
  const Vec n = shifted - magic;
  Vec r = fma(n, splat(-0.693359375f), y);
  r = fma(n, splat(2.12194440e-4f), r);
  Vec p = splat(1.9875691500e-4f);
  p = fma(p, r, splat(1.3981999507e-3f));
  p = fma(p, r, splat(8.3334519073e-3f));
  p = fma(p, r, splat(4.1665795894e-2f));
  p = fma(p, r, splat(1.6666665459e-1f));
  p = fma(p, r, splat(5.0000001201e-1f));
  p = fma(p, r * r, r + splat(1.0f));
  const Vec power = as_floats(shift_left<23>(as_words(shifted) + splat_word(127)));
  return select(x < low, splat(0.0f), p * power);
}

// 2^x for x ≤ 0, 2^-126 below that; the whole part makes the exponent, and a polynomial the rest:
// 2^f = 1 + f g(f) for |f| ≤ 1/2, with g fitted to the least relative error.
STOKER_INLINE Vec exp2_with(Vec x, const float* g, int degree) {
  const Vec y = max(splat(-126.0f), x);
  // Adding it leaves the nearest integer, and the bias of an exponent, in the low mantissa bits.
  const Vec magic = splat(0x1.8p23f + 127.0f);
  const Vec shifted = y + magic;
  const Vec f = y - (shifted - magic);
  Vec p = splat(g[degree]);
  for (int i = degree - 1; i >= 0; --i) p = fma(p, f, splat(g[i]));
  p = fma(p, f, splat(1.0f));
  return p * as_floats(shift_left<23>(as_words(shifted)));
}
// To about one unit in the last place.
STOKER_INLINE Vec exp2(Vec x) {
  constexpr float g[] = {0x1.62e430p-1f, 0x1.ebfbdcp-3f, 0x1.c6aee8p-5f,
                         0x1.3b2d4cp-7f, 0x1.5f3e54p-10f, 0x1.41fbc0p-13f};
  return exp2_with(x, g, 5);
}
// With a relative error below 3e-6, for what is rounded to bf16.
STOKER_INLINE Vec exp2_rough(Vec x) {
  constexpr float g[] = {0x1.62e12cp-1f, 0x1.ec0378p-3f, 0x1.c9fc46p-5f, 0x1.3a02d2p-7f};
  return exp2_with(x, g, 3);
}

STOKER_INLINE Vec negate(Vec x) { return splat(0.0f) - x; }
STOKER_INLINE Vec absolute(Vec x) { return as_floats(as_words(x) & splat_word(0x7fffffffu)); }
STOKER_INLINE Vec copy_sign(Vec magnitude, Vec sign) {
  return as_floats((as_words(magnitude) & splat_word(0x7fffffffu)) |
                   (as_words(sign) & splat_word(0x80000000u)));
}

STOKER_INLINE Vec tanh(Vec x) {
  const Vec one = splat(1.0f), e = exp(splat(-2.0f) * absolute(x));
  return copy_sign((one - e) / (one + e), x);
}

// Abramowitz and Stegun 7.1.26; absolute error below 2e-7.
STOKER_INLINE Vec erf(Vec x) {
  const Vec one = splat(1.0f), a = absolute(x);
  const Vec t = one / fma(splat(0.3275911f), a, one);
  Vec p = splat(1.061405429f);
  p = fma(p, t, splat(-1.453152027f));
  p = fma(p, t, splat(1.421413741f));
  p = fma(p, t, splat(-0.284496736f));
  p = fma(p, t, splat(0.254829592f));
  return copy_sign(one - (p * t) * exp(negate(a * a)), x);
}

}  // namespace
}  // namespace stoker::STOKER_ISA
