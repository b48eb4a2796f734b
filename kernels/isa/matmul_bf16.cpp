// Products of bf16 weights with bf16 activations.
#if defined(STOKER_ISA_avx512)
#include "isa/matmul_bf16_avx512.h"

namespace stoker::STOKER_ISA {

void matmul_bf16(const MatmulArgs& args) { matmul_bf16_tiles<false>(args); }
void matmul_bf16_dot(const MatmulArgs& args) { matmul_bf16_tiles<true>(args); }

}  // namespace stoker::STOKER_ISA
#elif defined(STOKER_ISA_amx)
#include "isa/matmul_bf16_amx.h"
#elif defined(STOKER_ISA_avx2)
#include "isa/matmul_bf16_avx2.h"
#else
#include "isa/matmul_bf16_portable.h"
#endif
