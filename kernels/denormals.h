// Treats numbers too small for full precision as zero while in scope: they slow products down
// many times and carry nothing, and the bfloat16 instructions ignore them anyway.
#pragma once

#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

namespace stoker {

class FlushDenormals {
 public:
#if defined(__x86_64__)
  FlushDenormals() : saved_(_mm_getcsr()) { _mm_setcsr(saved_ | 0x8040); }  // FTZ, DAZ
  ~FlushDenormals() { _mm_setcsr(saved_); }
#else
  FlushDenormals() = default;
#endif
  FlushDenormals(const FlushDenormals&) = delete;
  FlushDenormals& operator=(const FlushDenormals&) = delete;

 private:
#if defined(__x86_64__)
  unsigned saved_;
#endif
};

}  // namespace stoker
