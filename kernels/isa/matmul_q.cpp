// Products of 4- and 8-bit weights with int8 activations.
#if defined(STOKER_ISA_avx512) || defined(STOKER_ISA_amx)
#include "isa/matmul_q_avx512.h"
#elif defined(STOKER_ISA_avx2)
#include "isa/matmul_q_avx2.h"
#else
#include "isa/matmul_q_portable.h"
#endif
