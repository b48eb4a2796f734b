// Every implementation of the matrix products against the portable one, and each against itself in
// other batches and ranges. All buffers end where their contents do, so that a sanitizer sees a
// kernel that reads or writes too far. Prints a line for each implementation; exits 1 on a failure.
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "half.h"
#include "matmul.h"

namespace stoker {

namespace portable { extern const MatmulKernels kMatmulKernels; }
#if defined(__x86_64__)
namespace avx2 {
extern const MatmulKernels kMatmulKernels, kMatmulKernelsWithVnni;
}
namespace avx512 {
extern const MatmulKernels kMatmulKernels, kMatmulKernelsWithBf16;
}
namespace amx { extern const MatmulKernels kMatmulKernels; }
namespace amx_emulated { extern const MatmulKernels kMatmulKernels; }
#endif

namespace {

int failures = 0;

void check(bool ok, const std::string& what) {
  if (ok) return;
  ++failures;
  std::printf("FAILED: %s\n", what.c_str());
}

struct Implementation {
  const char* name;
  const MatmulKernels* kernels;
  bool bf16_is_portable;  // its bf16 sums have the portable order
};

std::vector<Implementation> implementations() {
  std::vector<Implementation> all{{"portable", &portable::kMatmulKernels, true}};
#if defined(__x86_64__)
  if (isa_available(Isa::avx2)) all.push_back({"avx2", &avx2::kMatmulKernels, true});
  if (has_avx_vnni()) all.push_back({"avx2 with VNNI", &avx2::kMatmulKernelsWithVnni, true});
  if (isa_available(Isa::avx512)) {
    all.push_back({"avx512", &avx512::kMatmulKernels, true});
    all.push_back({"amx, emulated", &amx_emulated::kMatmulKernels, false});
    if (has_avx512_bf16())
      all.push_back({"avx512 with BF16", &avx512::kMatmulKernelsWithBf16, false});
  }
  if (isa_available(Isa::amx)) all.push_back({"amx", &amx::kMatmulKernels, false});
#endif
  return all;
}

std::mt19937 random_bits(1);

std::vector<float> random_floats(size_t count, float scale) {
  std::normal_distribution<float> normal(0, scale);
  std::vector<float> values(count);
  for (float& value : values) value = normal(random_bits);
  return values;
}

// Some columns of x far larger than the others, as in the rows that models compute.
void add_outliers(std::vector<float>& x, size_t cols) {
  for (size_t i = 0; i < x.size(); ++i)
    if (i % cols % 67 == 5 || random_bits() % 200 == 0) x[i] *= random_bits() % 8 ? 40.0f : 1e6f;
}

int columns_of_block(TensorType type) {
  return type == TensorType::q5_k ? 256 : type == TensorType::f32 ? 1 : kBlockCols;
}

// Rows of a quantized type with the codes that `next_byte` gives and small random scales.
template <typename NextByte>
PackedMatrix quantized_matrix(TensorType type, WeightFormat format, int rows, int cols,
                              NextByte next_byte) {
  const size_t stride = encoded_row_bytes(type, cols);
  std::vector<uint8_t> data(stride * rows);
  for (uint8_t& byte : data) byte = next_byte();
  const size_t block = encoded_row_bytes(type, columns_of_block(type));
  const size_t halfs = type == TensorType::q4_1 || type == TensorType::q5_k ? 2 : 1;
  for (size_t at = 0; at < data.size(); at += block)
    for (size_t field = 0; field < halfs; ++field) {
      const uint16_t half = float_to_half(random_floats(1, 0.01f)[0]);
      memcpy(&data[at + field * 2], &half, sizeof half);
    }
  return pack({data.data(), type, rows, cols, stride}, format);
}

PackedMatrix random_matrix(TensorType type, WeightFormat format, int rows, int cols) {
  if (type != TensorType::f32)
    return quantized_matrix(type, format, rows, cols,
                            [] { return static_cast<uint8_t>(random_bits()); });
  const std::vector<float> values = random_floats(static_cast<size_t>(rows) * cols, 0.05f);
  const auto* bytes = reinterpret_cast<const uint8_t*>(values.data());
  return pack({bytes, type, rows, cols, static_cast<size_t>(cols) * sizeof(float)}, format);
}

struct Rounded {
  std::unique_ptr<void, decltype(&std::free)> buffer{nullptr, &std::free};
  Activations x;
  size_t bytes = 0;
};

Rounded round_rows(const MatmulKernels& kernels, const float* x, ActivationFormat format, int rows,
                   int cols) {
  Rounded rounded;
  rounded.bytes = activation_bytes(format, rows, cols);
  rounded.buffer.reset(std::aligned_alloc(64, rounded.bytes));
  memset(rounded.buffer.get(), 0, rounded.bytes);
  rounded.x = lay_out_activations(rounded.buffer.get(), format, rows, cols);
  round_activations(kernels, x, cols, 0, rows, rounded.x);
  return rounded;
}

std::vector<float> product(const MatmulKernels& kernels, const PackedMatrix& weights, const float* x,
                           int rows) {
  const int cols = static_cast<int>(weights.cols());
  const Rounded rounded =
      round_rows(kernels, x, activation_format(weights.format()), rows, cols);
  std::vector<float> out(static_cast<size_t>(rows) * weights.rows());
  matmul(kernels, weights, rounded.x, 0, rows, 0, weights.panels(), out.data(), weights.rows());
  return out;
}

bool same(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

void test_rounding(const Implementation& implementation) {
  for (int cols : {1, 31, 32, 33, 250}) {
    std::vector<float> x = random_floats(3 * static_cast<size_t>(cols), 5);
    add_outliers(x, cols);
    if (cols == 250) x[40] = x[100] = 1e30f, x[300] = -x[300] * 1e-35f;
    for (ActivationFormat format : {ActivationFormat::int8, ActivationFormat::bf16}) {
      const Rounded expected = round_rows(portable::kMatmulKernels, x.data(), format, 3, cols);
      const Rounded got = round_rows(*implementation.kernels, x.data(), format, 3, cols);
      check(memcmp(expected.buffer.get(), got.buffer.get(), got.bytes) == 0,
            std::string(implementation.name) + ": rounding " + std::to_string(cols) + " columns");
    }
  }
}

void test_products(const Implementation& implementation, TensorType type, WeightFormat format) {
  const bool exact = format != WeightFormat::bf16 || implementation.bf16_is_portable;
  struct Shape { int n, k; };
  // The widest takes more than one chunk of the AMX kernel.
  for (const Shape& shape : {Shape{16, 32}, Shape{37, 96}, Shape{90, 320}, Shape{50, 768},
                             Shape{17, 4128}}) {
    if (shape.k % columns_of_block(type) != 0) continue;
    const PackedMatrix weights = random_matrix(type, format, shape.n, shape.k);
    constexpr int kMost = 70;
    std::vector<float> x = random_floats(static_cast<size_t>(kMost) * shape.k, 1);
    if (format != WeightFormat::bf16) add_outliers(x, shape.k);
    const std::vector<float> whole =
        product(*implementation.kernels, weights, x.data(), shape.k > 1000 ? 20 : kMost);
    const int whole_rows = static_cast<int>(whole.size()) / shape.n;
    const std::string what = std::string(implementation.name) + ": " +
                             std::string(tensor_type_name(type)) + " as " +
                             std::string(format_name(format)) + ", " + std::to_string(shape.n) +
                             " × " + std::to_string(shape.k);
    const std::vector<float> reference =
        product(portable::kMatmulKernels, weights, x.data(), whole_rows);
    if (exact) {
      check(same(whole, reference), what + " differs from portable");
    } else {
      // Both sums err by at most about k · 2^-24 of Σ|w·x|, which is about k · 0.05 here.
      const float bound = 0.05f * 0x1p-22f * static_cast<float>(shape.k) * shape.k + 1e-6f;
      for (size_t i = 0; i < whole.size(); ++i)
        check(whole[i] - reference[i] < bound && reference[i] - whole[i] < bound,
              what + " is far from portable");
    }
    for (int rows : {1, 2, 3, 4, 5, 6, 7, 8, 9, 12, 15, 16, 17, 24, 31, 32, 33, 40, 64}) {
      if (rows > whole_rows) break;
      const int first = whole_rows - rows;
      const std::vector<float> part = product(
          *implementation.kernels, weights, x.data() + static_cast<ptrdiff_t>(first) * shape.k, rows);
      check(same(part, std::vector<float>(whole.begin() + static_cast<ptrdiff_t>(first) * shape.n,
                                          whole.end())),
            what + " depends on the batch, at " + std::to_string(rows) + " rows");
    }
    // Ranges, one after the other, into rows that lie further apart than they are long.
    const ptrdiff_t stride = shape.n + 3;
    std::vector<float> apart(static_cast<size_t>((whole_rows - 1) * stride + shape.n), -1.0f);
    const Rounded rounded = round_rows(*implementation.kernels, x.data(),
                                       activation_format(format), whole_rows, shape.k);
    for (int panel = 0; panel < weights.panels(); panel += 3)
      for (int m = 0; m < whole_rows; m += 19) {
        const int m_end = m + 19 < whole_rows ? m + 19 : whole_rows;
        const int panel_end = panel + 3 < weights.panels() ? panel + 3 : weights.panels();
        matmul(*implementation.kernels, weights, rounded.x, m, m_end, panel, panel_end,
               apart.data(), stride);
      }
    for (int m = 0; m < whole_rows; ++m) {
      check(memcmp(&apart[m * stride], &whole[m * static_cast<ptrdiff_t>(shape.n)],
                   shape.n * sizeof(float)) == 0,
            what + " depends on the ranges");
      for (int i = shape.n; i < stride && m + 1 < whole_rows; ++i)
        check(apart[m * stride + i] == -1.0f, what + " writes beyond its rows");
    }
  }
}

// All codes at an extreme and all activations at ±127, or ±127² in outlier quads: the largest sums
// there are.
void test_extremes(const Implementation& implementation, TensorType type, WeightFormat format) {
  for (uint8_t code : {0x00, 0x7F, 0x80, 0xFF})
    for (float sign : {1.0f, -1.0f}) {
      constexpr int kRows = 9, kOutputs = 17, kCols = 256;
      const PackedMatrix weights =
          quantized_matrix(type, format, kOutputs, kCols, [=] { return code; });
      std::vector<float> x(static_cast<size_t>(kRows) * kCols, sign * 127);
      for (int row = 1; row < kRows; ++row)  // in each of the others, another quad
        for (int i = 0; i < kCols; ++i)
          if (i % kBlockCols / 4 == row - 1) x[row * kCols + i] *= 127;
      check(same(product(*implementation.kernels, weights, x.data(), kRows),
                 product(portable::kMatmulKernels, weights, x.data(), kRows)),
            std::string(implementation.name) + ": extreme codes of " +
                std::string(tensor_type_name(type)) + " differ from portable");
    }
}

// Every type is packed in one piece and in ranges of panels.
void test_packing() {
  for (int type = 0; type <= static_cast<int>(TensorType::q6_k); ++type)
    for (WeightFormat format : {WeightFormat::q4, WeightFormat::q8, WeightFormat::bf16}) {
      const auto source_type = static_cast<TensorType>(type);
      constexpr int kRows = 37, kCols = 512;
      const size_t stride = encoded_row_bytes(source_type, kCols);
      std::vector<uint8_t> data(stride * kRows);
      for (uint8_t& byte : data) byte = static_cast<uint8_t>(random_bits() & 0x3F);
      const EncodedMatrix source{data.data(), source_type, kRows, kCols, stride};
      const PackedMatrix whole = pack(source, format);
      PackedMatrix pieces = allocate_packed(source, format);
      pack_panels(pieces, source, 1, 3);
      pack_panels(pieces, source, 0, 1);
      check(memcmp(whole.codes(0), pieces.codes(0), whole.nbytes()) == 0,
            "packing " + std::string(tensor_type_name(source_type)) + " depends on the ranges");
      std::vector<float> row(kCols);
      for (int r = 0; r < kRows; ++r) whole.dequantize_row(r, row.data());
    }
}

}  // namespace
}  // namespace stoker

int main() {
  using namespace stoker;
  test_packing();
  for (const Implementation& implementation : implementations()) {
    test_rounding(implementation);
    for (TensorType type :
         {TensorType::q8_0, TensorType::q5_k, TensorType::q4_0, TensorType::q4_1}) {
      test_products(implementation, type, natural_format(type));
      test_extremes(implementation, type, natural_format(type));
    }
    test_products(implementation, TensorType::f32, WeightFormat::bf16);
    std::printf("tested: %s\n", implementation.name);
  }
  return failures == 0 ? 0 : 1;
}
