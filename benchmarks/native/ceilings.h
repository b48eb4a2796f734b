// What the machine can do at best: multiply-adds from registers, and reading memory.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "cpu_features.h"

namespace stoker::bench {

// One instruction over and over on independent registers, `rounds` times; returns how many
// multiply-adds that was.
using Peak = double (*)(long rounds);

#if defined(__x86_64__)

#define STOKER_TIMES_12(line, r) \
  line(r, 4) line(r, 5) line(r, 6) line(r, 7) line(r, 8) line(r, 9) line(r, 10) line(r, 11) \
  line(r, 12) line(r, 13) line(r, 14) line(r, 15)
#define STOKER_DPBUSD(r, i) "vpdpbusd %%" r "0, %%" r "1, %%" r #i "\n"
#define STOKER_VEX_DPBUSD(r, i) "%{vex%} vpdpbusd %%" r "0, %%" r "1, %%" r #i "\n"
#define STOKER_MADDUBS(r, i) "vpmaddubsw %%" r "0, %%" r "1, %%" r #i "\n"
#define STOKER_DPBF16(r, i) "vdpbf16ps %%" r "0, %%" r "1, %%" r #i "\n"
#define STOKER_FMA(r, i) "vfmadd231ps %%" r "0, %%" r "1, %%" r #i "\n"
#define STOKER_CLOBBERS \
  "xmm0", "xmm1", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", "xmm11", "xmm12", \
      "xmm13", "xmm14", "xmm15"
#define STOKER_PEAK(name, line, r, macs)                                                 \
  inline double name(long rounds) {                                                      \
    for (long i = 0; i < rounds; ++i)                                                    \
      asm volatile(STOKER_TIMES_12(line, r) : : : STOKER_CLOBBERS);                       \
    return 12.0 * (macs) * static_cast<double>(rounds);                                  \
  }
STOKER_PEAK(peak_dpbusd_512, STOKER_DPBUSD, "zmm", 64)
STOKER_PEAK(peak_dpbusd_256, STOKER_VEX_DPBUSD, "ymm", 32)
STOKER_PEAK(peak_maddubs_256, STOKER_MADDUBS, "ymm", 32)
STOKER_PEAK(peak_dpbf16_512, STOKER_DPBF16, "zmm", 32)
STOKER_PEAK(peak_fma_512, STOKER_FMA, "zmm", 16)
STOKER_PEAK(peak_fma_256, STOKER_FMA, "ymm", 8)

struct alignas(64) FullTiles {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};

inline double peak_amx_int8(long rounds) {
  const FullTiles tiles;
  asm volatile("ldtilecfg %0" : : "m"(tiles));
  for (long i = 0; i < rounds; ++i)
    asm volatile(
        "tdpbsud %tmm7, %tmm6, %tmm0\n tdpbsud %tmm7, %tmm6, %tmm1\n"
        "tdpbsud %tmm7, %tmm6, %tmm2\n tdpbsud %tmm7, %tmm6, %tmm3\n");
  asm volatile("tilerelease");
  return 4.0 * 16 * 16 * 64 * static_cast<double>(rounds);
}

inline double peak_amx_bf16(long rounds) {
  const FullTiles tiles;
  asm volatile("ldtilecfg %0" : : "m"(tiles));
  for (long i = 0; i < rounds; ++i)
    asm volatile(
        "tdpbf16ps %tmm7, %tmm6, %tmm0\n tdpbf16ps %tmm7, %tmm6, %tmm1\n"
        "tdpbf16ps %tmm7, %tmm6, %tmm2\n tdpbf16ps %tmm7, %tmm6, %tmm3\n");
  asm volatile("tilerelease");
  return 4.0 * 16 * 16 * 32 * static_cast<double>(rounds);
}

__attribute__((target("avx512f"))) inline uint64_t read_512(const uint8_t* p, size_t bytes) {
  __m512i a = _mm512_setzero_si512(), b = a;
  for (size_t i = 0; i + 128 <= bytes; i += 128) {
    a = _mm512_or_si512(a, _mm512_loadu_si512(p + i));
    b = _mm512_or_si512(b, _mm512_loadu_si512(p + i + 64));
  }
  uint64_t words[8];
  _mm512_storeu_si512(words, _mm512_or_si512(a, b));
  return words[0] | words[1] | words[2] | words[3] | words[4] | words[5] | words[6] | words[7];
}

#endif

// The best instruction that `isa` multiplies with, or null where there is none to speak of.
inline Peak peak_of(Isa isa, bool bf16) {
#if defined(__x86_64__)
  switch (isa) {
    case Isa::amx: return bf16 ? peak_amx_bf16 : peak_amx_int8;
    case Isa::avx512:
      if (!bf16) return peak_dpbusd_512;
      return has_avx512_bf16() ? peak_dpbf16_512 : peak_fma_512;
    case Isa::avx2:
      if (bf16) return peak_fma_256;
      return has_avx_vnni() ? peak_dpbusd_256 : peak_maddubs_256;
    case Isa::portable: break;
  }
#else
  (void)isa, (void)bf16;
#endif
  return nullptr;
}

// Reads all of memory [p, p + bytes) once, as fast as there are loads.
inline uint64_t read_memory(const uint8_t* p, size_t bytes) {
#if defined(__x86_64__)
  if (isa_available(Isa::avx512)) return read_512(p, bytes);
#endif
  uint64_t sums[8] = {};
  for (size_t i = 0; i + 64 <= bytes; i += 64) {
    uint64_t words[8];
    memcpy(words, p + i, sizeof words);
    for (int w = 0; w < 8; ++w) sums[w] |= words[w];
  }
  return sums[0] | sums[1] | sums[2] | sums[3] | sums[4] | sums[5] | sums[6] | sums[7];
}

}  // namespace stoker::bench
