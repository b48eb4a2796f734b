// The table of this instruction set.
#include "isa/kernels.h"

namespace stoker::STOKER_ISA {

extern const MatmulKernels kMatmulKernels = {&round_int8, &round_bf16, &matmul_q4, &matmul_q8,
                                             &matmul_bf16};
#if defined(STOKER_ISA_avx2)
extern const MatmulKernels kMatmulKernelsWithVnni = {&round_int8, &round_bf16, &matmul_q4_vnni,
                                                     &matmul_q8_vnni, &matmul_bf16};
#elif defined(STOKER_ISA_avx512)
extern const MatmulKernels kMatmulKernelsWithBf16 = {&round_int8, &round_bf16, &matmul_q4,
                                                     &matmul_q8, &matmul_bf16_dot};
#endif

}  // namespace stoker::STOKER_ISA
