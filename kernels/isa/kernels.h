// What the files of one instruction set share. Each is compiled once per instruction set into a
// namespace of that name; nothing here may have external linkage outside that namespace, or the
// linker could keep the copy that the processor cannot run.
#pragma once

#include <cstring>

#include "half.h"
#include "matmul.h"

namespace stoker::STOKER_ISA {

void round_int8(const float* x, ptrdiff_t x_stride, int row_begin, int row_end,
                const Activations& out);
void round_bf16(const float* x, ptrdiff_t x_stride, int row_begin, int row_end,
                const Activations& out);
void matmul_q4(const MatmulArgs& args);
void matmul_q8(const MatmulArgs& args);
void matmul_bf16(const MatmulArgs& args);
#if defined(STOKER_ISA_avx2)
void matmul_q4_vnni(const MatmulArgs& args);  // with AVX-VNNI
void matmul_q8_vnni(const MatmulArgs& args);
#elif defined(STOKER_ISA_avx512)
void matmul_bf16_dot(const MatmulArgs& args);  // with AVX512_BF16
#endif

}  // namespace stoker::STOKER_ISA
