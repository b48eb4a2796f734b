// Weight matrices in the layout that the kernels stream: packed once, when a model is loaded.
//
// Sixteen output rows make a panel; within a panel, rows lie beside each other so that one vector
// register holds the same few columns of all sixteen. Columns are padded to blocks of 32 (with
// weights that are zero), rows to whole panels.
//
//   q8    a block of a panel is 8 vectors [16 rows][4 columns] of bytes, one for each column quad
//   q4    4 such vectors: byte [row][t] of vector i holds column 4i+t in its low four bits and
//         column 16+4i+t in its high four
//   bf16  a block is 16 vectors [16 rows][2 columns] of bfloat16
//
// Codes are unsigned. A quantized block of 32 columns of one row has an fp16 scale d and stands for
// d·(code − zero), zero being 8 (q4) or 128 (q8), or, in a matrix with mins, for d·code + min.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string_view>

namespace stoker {

inline constexpr int kPanelRows = 16;
inline constexpr int kBlockCols = 32;

enum class WeightFormat : int { q4, q8, bf16 };

// How the elements of a tensor are encoded in a model file. Block formats are GGUF's.
enum class TensorType : int { f32, f16, bf16, q8_0, q4_0, q4_1, q5_0, q5_1, q4_k, q5_k, q6_k };

std::string_view format_name(WeightFormat format);                      // "q4"
std::optional<WeightFormat> format_from_name(std::string_view name);
std::string_view tensor_type_name(TensorType type);                     // "Q4_0"
std::optional<TensorType> tensor_type_from_name(std::string_view name);

// The format that loses nothing, or least: Q4_* → q4; Q8_0, Q5_*, Q6_K → q8; floats → bf16.
WeightFormat natural_format(TensorType type);

// Bytes of one encoded row. Throws std::invalid_argument unless `cols` is whole blocks.
size_t encoded_row_bytes(TensorType type, int64_t cols);

class PackedMatrix {
 public:
  PackedMatrix() = default;

  // Space for a matrix [rows, cols] that will be packed from `type`; its content is undefined until
  // pack_panels has filled every panel. `with_mins` matrices are q4 or q8.
  PackedMatrix(WeightFormat format, int64_t rows, int64_t cols, bool with_mins = false);

  WeightFormat format() const { return format_; }
  int64_t rows() const { return rows_; }
  int64_t cols() const { return cols_; }
  int panels() const { return panels_; }          // ceil(rows / 16)
  int blocks() const { return blocks_; }          // ceil(cols / 32), of each row
  bool has_mins() const { return mins_ != nullptr; }
  size_t nbytes() const { return nbytes_; }       // all storage, padding included

  size_t codes_per_block() const { return codes_per_block_; }  // bytes, of one panel
  uint8_t* codes(int panel) const;                // [blocks][codes_per_block], 64-byte aligned
  uint16_t* scales(int panel) const;              // [blocks][16] fp16; null for bf16
  uint16_t* mins(int panel) const;                // [blocks][16] fp16; null without mins

  // Row `row` as float32, [cols]: what an embedding lookup reads. Exactly the weights that the
  // products use.
  void dequantize_row(int64_t row, float* out) const;

 private:
  WeightFormat format_ = WeightFormat::bf16;
  int64_t rows_ = 0, cols_ = 0;
  int panels_ = 0, blocks_ = 0;
  size_t codes_per_block_ = 0, nbytes_ = 0;
  std::shared_ptr<uint8_t> storage_;
  uint8_t* codes_ = nullptr;
  uint16_t* scales_ = nullptr;
  uint16_t* mins_ = nullptr;
};

// An unpacked matrix: `rows` encoded rows, `row_stride` bytes apart.
struct EncodedMatrix {
  const uint8_t* data = nullptr;
  TensorType type = TensorType::f32;
  int64_t rows = 0, cols = 0;
  size_t row_stride = 0;
};

// An empty matrix fit for `source`: mins only where the source's own codes are kept and have them.
PackedMatrix allocate_packed(const EncodedMatrix& source, WeightFormat format);

// Fill panels [panel_begin, panel_end) of `matrix`. Ranges may be packed on different threads.
//
// Exact where the source's codes fit the format: Q4_0, Q4_1 → q4 and Q8_0, Q5_0, Q5_1 → q8 keep
// codes and scales, BF16 → bf16 its values. Q4_K → q4 and Q5_K → q8 keep the codes; their scales and mins,
// products of an fp16 and a 6-bit number, are rounded to fp16. All else is rounded: to bf16; to q8
// with scale max|w|/127; to q4 with the scale, of a few tried, that has the least squared error.
void pack_panels(PackedMatrix& matrix, const EncodedMatrix& source, int panel_begin, int panel_end);

// Allocate and pack on this thread.
PackedMatrix pack(const EncodedMatrix& source, WeightFormat format);

}  // namespace stoker
