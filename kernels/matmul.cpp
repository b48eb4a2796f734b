#include "matmul.h"

#include <algorithm>

namespace stoker {

namespace portable { extern const MatmulKernels kMatmulKernels; }
#if defined(__x86_64__)
namespace avx2 {
extern const MatmulKernels kMatmulKernels;
extern const MatmulKernels kMatmulKernelsWithVnni;
}
namespace avx512 {
extern const MatmulKernels kMatmulKernels;
extern const MatmulKernels kMatmulKernelsWithBf16;
}
namespace amx { extern const MatmulKernels kMatmulKernels; }
#endif

namespace {

size_t rounded_up(size_t n) { return (n + 63) / 64 * 64; }

// Every panel meets the same blocks of activations. Of about so many a processor remembers which
// have an outlier quad; of more it guesses, which can halve the speed.
constexpr int kRememberedBlocks = 32768;
constexpr int kRowUnit = 96;  // whole tiles on every instruction set

int blocks_of(int cols) { return (cols + kBlockCols - 1) / kBlockCols; }

}  // namespace

ActivationFormat activation_format(WeightFormat format) {
  return format == WeightFormat::bf16 ? ActivationFormat::bf16 : ActivationFormat::int8;
}

size_t activation_bytes(ActivationFormat format, int rows, int cols) {
  const size_t blocks = static_cast<size_t>(rows) * blocks_of(cols);
  return rounded_up(blocks * (format == ActivationFormat::bf16 ? kBlockCols * sizeof(uint16_t)
                                                               : sizeof(ActivationBlock)));
}

Activations lay_out_activations(void* buffer, ActivationFormat format, int rows, int cols) {
  Activations x;
  x.format = format;
  x.rows = rows;
  x.cols = cols;
  x.blocks = x.row_blocks = blocks_of(cols);
  if (format == ActivationFormat::bf16)
    x.values = static_cast<uint16_t*>(buffer);
  else
    x.quantized = static_cast<ActivationBlock*>(buffer);
  return x;
}

Activations part_of(const Activations& x, int row, int rows, int col, int cols) {
  const ptrdiff_t first = static_cast<ptrdiff_t>(row) * x.row_blocks + col / kBlockCols;
  Activations part = x;
  part.rows = rows;
  part.cols = cols;
  part.blocks = blocks_of(cols);
  if (x.quantized) part.quantized += first;
  if (x.values) part.values += first * kBlockCols;
  return part;
}

const MatmulKernels& matmul_kernels(Isa isa) {
#if defined(__x86_64__)
  switch (isa) {
    case Isa::amx: return amx::kMatmulKernels;
    case Isa::avx512:
      return has_avx512_bf16() ? avx512::kMatmulKernelsWithBf16 : avx512::kMatmulKernels;
    case Isa::avx2: return has_avx_vnni() ? avx2::kMatmulKernelsWithVnni : avx2::kMatmulKernels;
    case Isa::portable: break;
  }
#else
  (void)isa;
#endif
  return portable::kMatmulKernels;
}

void round_activations(const MatmulKernels& kernels, const float* x, ptrdiff_t x_stride,
                       int row_begin, int row_end, const Activations& out) {
  const auto round =
      out.format == ActivationFormat::bf16 ? kernels.round_bf16 : kernels.round_int8;
  round(x, x_stride, row_begin, row_end, out);
}

void matmul(const MatmulKernels& kernels, const PackedMatrix& weights, const Activations& x,
            int m_begin, int m_end, int panel_begin, int panel_end, float* out,
            ptrdiff_t out_stride) {
  if (m_begin >= m_end || panel_begin >= panel_end) return;
  MatmulArgs args{weights.codes(0),
                  weights.scales(0),
                  weights.mins(0),
                  &x,
                  static_cast<int>(weights.rows()),
                  weights.blocks(),
                  m_begin,
                  m_end,
                  panel_begin,
                  panel_end,
                  out,
                  out_stride};
  if (weights.format() == WeightFormat::bf16) return kernels.matmul_bf16(args);
  const auto product = weights.format() == WeightFormat::q4 ? kernels.matmul_q4 : kernels.matmul_q8;
  const int rows = std::max(1, kRememberedBlocks / weights.blocks() / kRowUnit) * kRowUnit;
  for (int m = m_begin; m < m_end; m += rows) {
    args.m_begin = m;
    args.m_end = std::min(m_end, m + rows);
    product(args);
  }
}

}  // namespace stoker
