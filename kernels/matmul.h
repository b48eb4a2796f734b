// Products of packed weights with activations:  out[m][n] = Σ_k weights[n][k] · x[m][k].
//
// What is computed, exactly. Activations are first rounded, each row alone:
//   int8  (for q4 and q8) in blocks of 32 columns: scale = range / 127, code = x · (127 / range)
//         rounded half to even, where range = max|x|. But one outlier would make all other columns
//         coarse. So let `rest` be the largest magnitude outside of the quad, four aligned columns,
//         that holds max|x|. If max|x| > 2 · rest, the block has an outlier quad: then
//         range = max(rest, max|x| / 127), and that quad's codes, of up to ±127², have 15 bits.
//         A block with max|x| < 1e-30 is zero; a block that holds an infinity or a NaN gets scale
//         NaN, so that it shows in the output.
//   bf16  (for bf16) rounded half to even.
// An output of q4 and q8 is, with d and min of the weights' blocks and sa of the activations',
//   acc = 0; for each block in order:
//     without mins   acc = fma(float(Σ (code − zero)·a), d·sa, acc)
//     with mins      acc = fma(float(Σ code·a), d·sa, acc);  acc = fma(min, sa·float(Σ a), acc)
// where the sums are exact integers below 2^25, and float() rounds half to even. The order never
// varies, so an output has the same bits on every instruction set, whatever the batch, the ranges
// and the number of threads.
// An output of bf16 is a float32 sum in one fixed order for each instruction set (which may have
// its own product of bf16 pairs): again the same bits whatever the batch, ranges and threads.
#pragma once

#include <cstddef>
#include <cstdint>

#include "cpu_features.h"
#include "packed_matrix.h"

namespace stoker {

enum class ActivationFormat : int { int8, bf16 };

// The activations that a matrix of `format` is multiplied with.
ActivationFormat activation_format(WeightFormat format);

// Thirty-two rounded columns of a row, with what a product with them needs. Of an outlier quad's
// code a, `outlier` holds ⌊(a + 64) / 128⌋ and `codes` what remains, −64 … 63.
struct ActivationBlock {
  int8_t codes[kBlockCols];
  float scale;
  int32_t neg_sum;         // −Σ a
  float scaled_sum;        // scale · Σ a
  int32_t outlier_quad;    // columns [4 · quad, 4 · quad + 4), or kNoOutlier
  int8_t outlier[4];
};

constexpr int32_t kNoOutlier = -1;

// Rounded activations, in memory that the caller owns. Columns are padded to whole blocks; the
// padding is written, as zeros, whenever a row is.
struct Activations {
  ActivationFormat format = ActivationFormat::int8;
  int rows = 0;
  int cols = 0;
  int blocks = 0;                        // ceil(cols / 32)
  int row_blocks = 0;                    // from one row to the next: `blocks`, but in a part more
  ActivationBlock* quantized = nullptr;  // int8: [rows][row_blocks]
  uint16_t* values = nullptr;            // bf16: [rows][row_blocks · 32]
};

// Bytes that lay_out_activations needs, a multiple of 64.
size_t activation_bytes(ActivationFormat format, int rows, int cols);

// Activations in `buffer`, which must be 64-byte aligned and hold activation_bytes.
Activations lay_out_activations(void* buffer, ActivationFormat format, int rows, int cols);

// Columns [col, col + cols) of rows [row, row + rows), to be rounded by themselves; `col` begins a
// block. Products take whole rows.
Activations part_of(const Activations& x, int row, int rows, int col, int cols);

// What a kernel is told: plain numbers, because files compiled for different instruction sets must
// not share inline functions.
struct MatmulArgs {
  const uint8_t* codes;       // of panel 0
  const uint16_t* scales;
  const uint16_t* mins;       // null without
  const Activations* x;
  int rows;                   // outputs
  int blocks;
  int m_begin, m_end;         // rows of x
  int panel_begin, panel_end;
  float* out;                 // out[m · out_stride + n]
  ptrdiff_t out_stride;
};

// The kernels of one instruction set.
struct MatmulKernels {
  // Round rows [row_begin, row_end) of x, `x_stride` floats apart, into the same rows of `out`.
  void (*round_int8)(const float* x, ptrdiff_t x_stride, int row_begin, int row_end,
                     const Activations& out);
  void (*round_bf16)(const float* x, ptrdiff_t x_stride, int row_begin, int row_end,
                     const Activations& out);
  void (*matmul_q4)(const MatmulArgs& args);
  void (*matmul_q8)(const MatmulArgs& args);
  void (*matmul_bf16)(const MatmulArgs& args);
};

// The kernels of `isa`, which must be available here.
const MatmulKernels& matmul_kernels(Isa isa);

// Round rows [row_begin, row_end) of x, `x_stride` floats apart, into the same rows of `out`.
void round_activations(const MatmulKernels& kernels, const float* x, ptrdiff_t x_stride,
                       int row_begin, int row_end, const Activations& out);

// out[m · out_stride + n] for m in [m_begin, m_end) and the rows n of panels [panel_begin,
// panel_end) of `weights`; one thread, no memory allocated. `x` has the format and the columns
// that `weights` asks for.
void matmul(const MatmulKernels& kernels, const PackedMatrix& weights, const Activations& x,
            int m_begin, int m_end, int panel_begin, int panel_end, float* out,
            ptrdiff_t out_stride);

}  // namespace stoker
