// Products of 4- and 8-bit weights with int8 activations.
#if defined(STOKER_ISA_amx)
#include "isa/matmul_q_amx.h"
#elif defined(STOKER_ISA_avx512)
#include "isa/matmul_q_avx512.h"

namespace stoker::STOKER_ISA {

void matmul_q4(const MatmulArgs& args) { matmul_quantized<true>(args); }
void matmul_q8(const MatmulArgs& args) { matmul_quantized<false>(args); }

}  // namespace stoker::STOKER_ISA
#elif defined(STOKER_ISA_avx2)
#include "isa/matmul_q_avx2.h"
#else
#include "isa/matmul_q_portable.h"
#endif
