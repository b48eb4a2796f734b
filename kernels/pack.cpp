// Packing: encoded rows → panels of 16 rows, interleaved (see packed_matrix.h).
#include <algorithm>
#include <cmath>
#include <cstring>
#include <stdexcept>
#include <string>

#include "gguf_blocks.h"
#include "half.h"
#include "packed_matrix.h"

namespace stoker {
namespace {

constexpr uint16_t kHalfNan = 0x7E00;

// Where one block of one row goes within a panel.
struct Slot {
  uint8_t* codes;    // of the panel's block
  uint16_t* scale;   // of the row; null for bf16
  uint16_t* min;     // of the row; null without
  int lane;
};

// 32 byte codes, or 16 bytes of two nibbles: four columns at a time to [quad][16 rows][4].
template <int bytes>
void scatter(const uint8_t* codes, const Slot& slot) {
  for (int quad = 0; quad < bytes / 4; ++quad)
    memcpy(slot.codes + (quad * kPanelRows + slot.lane) * 4, codes + quad * 4, 4);
}

// Byte i holds columns i and 16 + i.
void scatter_nibbles(const uint8_t* codes, const Slot& slot) {
  uint8_t both[16];
  for (int i = 0; i < 16; ++i) both[i] = static_cast<uint8_t>(codes[i] | codes[16 + i] << 4);
  scatter<16>(both, slot);
}

void store_bf16(const float* x, const Slot& slot) {
  uint16_t values[32];
  for (int i = 0; i < 32; ++i) values[i] = float_to_bf16(x[i]);
  scatter<64>(reinterpret_cast<const uint8_t*>(values), slot);
}

float largest_magnitude(const float* x) {
  uint32_t largest = 0;  // as integers, magnitudes keep their order, and NaN is above all
  for (int i = 0; i < 32; ++i) largest = std::max(largest, float_bits(x[i]) & 0x7FFFFFFF);
  return float_from_bits(largest);
}

// Half to even; exact for |x| < 2^22, and unlike rintf it vectorizes everywhere.
float round_to_integer(float x) {
  constexpr float kMagic = 12582912.0f;  // 1.5 · 2^23: its last bit is worth one
  return (x + kMagic) - kMagic;
}

float clamp(float x, float low, float high) { return x < low ? low : x > high ? high : x; }

void store_q8(const float* x, const Slot& slot) {
  uint8_t codes[32];
  const float largest = largest_magnitude(x);
  const bool finite = largest < INFINITY;
  *slot.scale = finite ? float_to_half(largest / 127.0f) : kHalfNan;
  const float scale = half_to_float(*slot.scale);
  const float inverse = finite && scale > 0 ? 1.0f / scale : 0.0f;
  for (int i = 0; i < 32; ++i) {
    const float code = finite ? clamp(round_to_integer(x[i] * inverse), -127.0f, 127.0f) : 0.0f;
    codes[i] = static_cast<uint8_t>(static_cast<int>(code) + 128);
  }
  scatter<32>(codes, slot);
}

// Four lanes, in whatever registers there are: GCC and Clang both have these vectors.
typedef float Lanes __attribute__((vector_size(16)));

// Codes of x for a scale, −8..7, and their squared error.
float quantize_q4(const float* x, float scale, float* codes) {
  constexpr float kMagic = 12582912.0f;
  const Lanes low = Lanes{} - 8.0f, high = Lanes{} + 7.0f;
  const float inverse = 1.0f / scale;
  Lanes error{};
  for (int i = 0; i < 32; i += 4) {
    Lanes v;
    memcpy(&v, x + i, sizeof v);
    Lanes code = v * inverse;
    code = code < low ? low : code;
    code = code > high ? high : code;
    code = (code + kMagic) - kMagic;
    const Lanes off = v - code * scale;
    error += off * off;
    memcpy(codes + i, &code, sizeof code);
  }
  return (error[0] + error[1]) + (error[2] + error[3]);
}

// The largest magnitude goes to about −8, on the long side of the range. A slightly larger or
// smaller scale often rounds the other 31 better, so a few are tried.
void store_q4(const float* x, const Slot& slot) {
  constexpr float kEnds[] = {-8.0f, -7.4f, -7.7f, -8.4f, -8.8f, 7.0f, 7.5f, 8.0f};
  const float largest = largest_magnitude(x);
  uint8_t codes[32];
  if (!(largest < INFINITY)) {
    *slot.scale = kHalfNan;
    memset(codes, 8, sizeof codes);
    return scatter_nibbles(codes, slot);
  }
  float extreme = 0;
  for (int i = 0; i < 32; ++i)
    if (std::fabs(x[i]) == largest) extreme = x[i];
  float best_codes[32] = {}, best_error = INFINITY;
  uint16_t best_scale = 0;
  for (float end : kEnds) {
    const uint16_t half = float_to_half(extreme / end);
    const float scale = half_to_float(half);
    if (scale == 0 || !(std::fabs(scale) < INFINITY)) continue;
    float tried[32];
    const float error = quantize_q4(x, scale, tried);
    if (error < best_error) {
      best_error = error;
      best_scale = half;
      memcpy(best_codes, tried, sizeof tried);
    }
  }
  *slot.scale = best_scale;
  for (int i = 0; i < 32; ++i) codes[i] = static_cast<uint8_t>(static_cast<int>(best_codes[i]) + 8);
  scatter_nibbles(codes, slot);
}

// Columns [32·b, 32·b + 32) of an encoded row, zero beyond `cols`.
void decode(TensorType type, const uint8_t* row, int b, int64_t cols, float* out) {
  const int64_t begin = static_cast<int64_t>(b) * kBlockCols;
  const int count = static_cast<int>(std::min<int64_t>(kBlockCols, cols - begin));
  std::fill(out + count, out + kBlockCols, 0.0f);
  CodedBlock coded;
  switch (type) {
    case TensorType::f32: memcpy(out, row + begin * 4, static_cast<size_t>(count) * 4); return;
    case TensorType::f16:
      for (int i = 0; i < count; ++i) out[i] = half_to_float(load_u16(row + (begin + i) * 2));
      return;
    case TensorType::bf16:
      for (int i = 0; i < count; ++i) out[i] = bf16_to_float(load_u16(row + (begin + i) * 2));
      return;
    case TensorType::q8_0: {
      const uint8_t* block = row + static_cast<size_t>(b) * 34;
      const float d = half_to_float(load_u16(block));
      for (int i = 0; i < 32; ++i)
        out[i] = d * static_cast<float>(static_cast<int8_t>(block[2 + i]));
      return;
    }
    case TensorType::q4_0:
    case TensorType::q4_1: {
      const bool with_min = type == TensorType::q4_1;
      const uint8_t* block = row + static_cast<size_t>(b) * (with_min ? 20 : 18);
      const float d = half_to_float(load_u16(block));
      const float min = with_min ? half_to_float(load_u16(block + 2)) : 0.0f;
      const uint8_t* nibbles = block + (with_min ? 4 : 2);
      const int zero = with_min ? 0 : 8;
      for (int i = 0; i < 16; ++i) {
        out[i] = d * static_cast<float>((nibbles[i] & 15) - zero);
        out[16 + i] = d * static_cast<float>((nibbles[i] >> 4) - zero);
      }
      if (with_min)
        for (int i = 0; i < 32; ++i) out[i] += min;
      return;
    }
    case TensorType::q5_0:
    case TensorType::q5_1: {
      const bool with_min = type == TensorType::q5_1;
      const uint8_t* block = row + static_cast<size_t>(b) * (with_min ? 24 : 22);
      const float d = half_to_float(load_u16(block));
      const float min = with_min ? half_to_float(load_u16(block + 2)) : 0.0f;
      const int zero = with_min ? 0 : 16;
      decode_q5_codes(block + (with_min ? 4 : 2), coded.codes);
      for (int i = 0; i < 32; ++i) out[i] = d * static_cast<float>(coded.codes[i] - zero);
      if (with_min)
        for (int i = 0; i < 32; ++i) out[i] += min;
      return;
    }
    case TensorType::q4_k: coded = decode_q4_k(row + b / 8 * size_t{144}, b % 8); break;
    case TensorType::q5_k: coded = decode_q5_k(row + b / 8 * size_t{176}, b % 8); break;
    case TensorType::q6_k: return decode_q6_k(row + b / 8 * size_t{210}, b % 8, out);
  }
  for (int i = 0; i < 32; ++i)
    out[i] = coded.scale * static_cast<float>(coded.codes[i]) + coded.min;
}

// One block of one row whose codes are kept as they are.
void keep_codes(TensorType type, const uint8_t* row, int b, const Slot& slot) {
  if (type == TensorType::q8_0) {
    const uint8_t* block = row + static_cast<size_t>(b) * 34;
    uint8_t codes[32];
    for (int i = 0; i < 32; ++i) codes[i] = block[2 + i] ^ 0x80;  // signed → offset by 128
    *slot.scale = load_u16(block);
    return scatter<32>(codes, slot);
  }
  if (type == TensorType::q4_0) {
    const uint8_t* block = row + static_cast<size_t>(b) * 18;
    *slot.scale = load_u16(block);
    return scatter<16>(block + 2, slot);
  }
  if (type == TensorType::q4_1) {
    const uint8_t* block = row + static_cast<size_t>(b) * 20;
    *slot.scale = load_u16(block);
    *slot.min = load_u16(block + 2);
    return scatter<16>(block + 4, slot);
  }
  if (type == TensorType::q5_0 || type == TensorType::q5_1) {
    const bool with_min = type == TensorType::q5_1;
    const uint8_t* block = row + static_cast<size_t>(b) * (with_min ? 24 : 22);
    uint8_t codes[32];
    decode_q5_codes(block + (with_min ? 4 : 2), codes);
    *slot.scale = load_u16(block);
    if (with_min)
      *slot.min = load_u16(block + 2);
    else
      for (uint8_t& code : codes) code += 128 - 16;  // the zero point of q8 in place of Q5_0's
    return scatter<32>(codes, slot);
  }
  const bool q5 = type == TensorType::q5_k;
  const CodedBlock block = q5 ? decode_q5_k(row + b / 8 * size_t{176}, b % 8)
                              : decode_q4_k(row + b / 8 * size_t{144}, b % 8);
  *slot.scale = float_to_half(block.scale);
  *slot.min = float_to_half(block.min);
  return q5 ? scatter<32>(block.codes, slot) : scatter_nibbles(block.codes, slot);
}

bool keeps_codes(TensorType type, WeightFormat format) {
  return format != WeightFormat::bf16 && type != TensorType::q6_k &&
         natural_format(type) == format;
}

void pack_row(PackedMatrix& matrix, const EncodedMatrix& source, int64_t row_index) {
  const int panel = static_cast<int>(row_index / kPanelRows);
  const bool padding = row_index >= source.rows;
  const bool keep = keeps_codes(source.type, matrix.format()) && !padding;
  const uint8_t* row =
      padding ? nullptr : source.data + static_cast<size_t>(row_index) * source.row_stride;
  const int lane = static_cast<int>(row_index % kPanelRows);
  Slot slot{matrix.codes(panel), matrix.scales(panel), matrix.mins(panel), lane};
  if (slot.scale) slot.scale += lane;
  if (slot.min) slot.min += lane;
  float values[32] = {};
  for (int b = 0; b < matrix.blocks(); ++b) {
    if (keep) {
      keep_codes(source.type, row, b, slot);
    } else {
      if (!padding) decode(source.type, row, b, source.cols, values);
      if (slot.min) *slot.min = 0;  // of padding rows: all else that has mins keeps its codes
      switch (matrix.format()) {
        case WeightFormat::q4: store_q4(values, slot); break;
        case WeightFormat::q8: store_q8(values, slot); break;
        case WeightFormat::bf16: store_bf16(values, slot); break;
      }
    }
    slot.codes += matrix.codes_per_block();
    if (slot.scale) slot.scale += kPanelRows;
    if (slot.min) slot.min += kPanelRows;
  }
}

}  // namespace

PackedMatrix allocate_packed(const EncodedMatrix& source, WeightFormat format) {
  const size_t row_bytes = encoded_row_bytes(source.type, source.cols);
  if (source.rows > 1 && source.row_stride < row_bytes)
    throw std::invalid_argument(std::string(tensor_type_name(source.type)) + " rows of " +
                                std::to_string(source.cols) + " columns take " +
                                std::to_string(row_bytes) + " bytes; the row stride is " +
                                std::to_string(source.row_stride));
  const bool with_mins = keeps_codes(source.type, format) && source.type != TensorType::q8_0 &&
                         source.type != TensorType::q5_0 && source.type != TensorType::q4_0;
  return PackedMatrix(format, source.rows, source.cols, with_mins);
}

void pack_panels(PackedMatrix& matrix, const EncodedMatrix& source, int panel_begin,
                 int panel_end) {
  for (int64_t row = static_cast<int64_t>(panel_begin) * kPanelRows;
       row < static_cast<int64_t>(panel_end) * kPanelRows; ++row)
    pack_row(matrix, source, row);
}

PackedMatrix pack(const EncodedMatrix& source, WeightFormat format) {
  PackedMatrix matrix = allocate_packed(source, format);
  pack_panels(matrix, source, 0, matrix.panels());
  return matrix;
}

}  // namespace stoker
