#include "packed_matrix.h"

#include <array>
#include <stdexcept>
#include <string>

#include "half.h"
#include "weight_memory.h"

namespace stoker {
namespace {

constexpr std::array<std::string_view, 3> kFormatNames{"q4", "q8", "bf16"};
constexpr std::array<std::string_view, 11> kTypeNames{"F32",  "F16",  "BF16", "Q8_0",
                                                      "Q4_0", "Q4_1", "Q5_0", "Q5_1",
                                                      "Q4_K", "Q5_K", "Q6_K"};

struct BlockSize { int cols, bytes; };
constexpr std::array<BlockSize, 11> kBlockSizes{{{1, 4}, {1, 2}, {1, 2}, {32, 34}, {32, 18}, {32, 20},
                                                 {32, 22}, {32, 24}, {256, 144}, {256, 176},
                                                 {256, 210}}};

size_t rounded_up(size_t n) { return (n + 63) / 64 * 64; }

}  // namespace

std::string_view format_name(WeightFormat format) {
  return kFormatNames[static_cast<size_t>(format)];
}

std::optional<WeightFormat> format_from_name(std::string_view name) {
  for (size_t i = 0; i < kFormatNames.size(); ++i)
    if (kFormatNames[i] == name) return static_cast<WeightFormat>(i);
  return std::nullopt;
}

std::string_view tensor_type_name(TensorType type) {
  return kTypeNames[static_cast<size_t>(type)];
}

std::optional<TensorType> tensor_type_from_name(std::string_view name) {
  for (size_t i = 0; i < kTypeNames.size(); ++i)
    if (kTypeNames[i] == name) return static_cast<TensorType>(i);
  return std::nullopt;
}

WeightFormat natural_format(TensorType type) {
  switch (type) {
    case TensorType::q4_0:
    case TensorType::q4_1:
    case TensorType::q4_k: return WeightFormat::q4;
    case TensorType::q8_0:
    case TensorType::q5_0:
    case TensorType::q5_1:
    case TensorType::q5_k:
    case TensorType::q6_k: return WeightFormat::q8;
    case TensorType::f32:
    case TensorType::f16:
    case TensorType::bf16: break;
  }
  return WeightFormat::bf16;
}

size_t encoded_row_bytes(TensorType type, int64_t cols) {
  const BlockSize block = kBlockSizes[static_cast<size_t>(type)];
  if (cols <= 0 || cols % block.cols != 0)
    throw std::invalid_argument(std::string(tensor_type_name(type)) +
                                " rows hold whole blocks of " + std::to_string(block.cols) +
                                " columns; got " + std::to_string(cols));
  return static_cast<size_t>(cols / block.cols) * block.bytes;
}

PackedMatrix::PackedMatrix(WeightFormat format, int64_t rows, int64_t cols, bool with_mins)
    : format_(format), rows_(rows), cols_(cols) {
  constexpr int64_t kMost = int64_t{1} << 30;
  if (rows <= 0 || cols <= 0 || rows > kMost || cols > kMost)
    throw std::invalid_argument("a matrix has between 1 and 2^30 rows and columns; got " +
                                std::to_string(rows) + " × " + std::to_string(cols));
  panels_ = static_cast<int>((rows + kPanelRows - 1) / kPanelRows);
  blocks_ = static_cast<int>((cols + kBlockCols - 1) / kBlockCols);
  const bool quantized = format != WeightFormat::bf16;
  const size_t bits = format == WeightFormat::q4 ? 4 : format == WeightFormat::q8 ? 8 : 16;
  codes_per_block_ = kPanelRows * kBlockCols * bits / 8;
  const size_t all_blocks = static_cast<size_t>(panels_) * blocks_;
  const size_t code_bytes = all_blocks * codes_per_block_;
  const size_t scale_bytes = quantized ? rounded_up(all_blocks * kPanelRows * 2) : 0;
  const size_t min_bytes = quantized && with_mins ? scale_bytes : 0;
  nbytes_ = code_bytes + scale_bytes + min_bytes;
  storage_ = allocate_weights(nbytes_);
  codes_ = storage_.get();
  if (scale_bytes) scales_ = reinterpret_cast<uint16_t*>(codes_ + code_bytes);
  if (min_bytes) mins_ = reinterpret_cast<uint16_t*>(codes_ + code_bytes + scale_bytes);
}

uint8_t* PackedMatrix::codes(int panel) const {
  return codes_ + static_cast<size_t>(panel) * blocks_ * codes_per_block_;
}

uint16_t* PackedMatrix::scales(int panel) const {
  return scales_ ? scales_ + static_cast<size_t>(panel) * blocks_ * kPanelRows : nullptr;
}

uint16_t* PackedMatrix::mins(int panel) const {
  return mins_ ? mins_ + static_cast<size_t>(panel) * blocks_ * kPanelRows : nullptr;
}

void PackedMatrix::dequantize_row(int64_t row, float* out) const {
  const int panel = static_cast<int>(row / kPanelRows), lane = static_cast<int>(row % kPanelRows);
  const uint8_t* codes = this->codes(panel);
  if (format_ == WeightFormat::bf16) {
    const auto* values = reinterpret_cast<const uint16_t*>(codes);
    for (int64_t k = 0; k < cols_; ++k)
      out[k] = bf16_to_float(values[(k / 2) * 2 * kPanelRows + lane * 2 + k % 2]);
    return;
  }
  const uint16_t* scales = this->scales(panel);
  const uint16_t* mins = this->mins(panel);
  const int zero = mins ? 0 : format_ == WeightFormat::q4 ? 8 : 128;
  for (int b = 0; b < blocks_; ++b, codes += codes_per_block_) {
    const float scale = half_to_float(scales[b * kPanelRows + lane]);
    const float min = mins ? half_to_float(mins[b * kPanelRows + lane]) : 0;
    const int64_t begin = static_cast<int64_t>(b) * kBlockCols;
    const int64_t count = cols_ - begin < kBlockCols ? cols_ - begin : kBlockCols;
    for (int i = 0; i < count; ++i) {
      int code;
      if (format_ == WeightFormat::q8) {
        code = codes[(i / 4) * 64 + lane * 4 + i % 4];
      } else {
        const int both = codes[(i % 16 / 4) * 64 + lane * 4 + i % 4];
        code = i < 16 ? both & 15 : both >> 4;
      }
      out[begin + i] = mins ? scale * static_cast<float>(code) + min
                            : scale * static_cast<float>(code - zero);
    }
  }
}

}  // namespace stoker
