// The AMX instructions that the kernels use: eight tiles of up to 16 rows of 64 bytes.
//
// With STOKER_AMX_EMULATED the same functions are ordinary code that computes what the instruction
// reference (Intel SDM, volume 2, TDPBSUD and TDPBF16PS) says, so that kernels written with them can
// be tested on a processor without AMX. (The instructions flush denormals; the emulation does not.)
#pragma once

#include "isa/kernels.h"

namespace stoker::STOKER_ISA {
namespace {

// The operand of LDTILECFG.
struct alignas(64) TileShapes {
  uint8_t palette = 1;
  uint8_t start_row = 0;
  uint8_t reserved[14] = {};
  uint16_t row_bytes[16] = {};
  uint8_t rows[16] = {};

  void set(int tile, int tile_rows, int bytes) {
    rows[tile] = static_cast<uint8_t>(tile_rows);
    row_bytes[tile] = static_cast<uint16_t>(bytes);
  }
};

#if !defined(STOKER_AMX_EMULATED)

inline void configure_tiles(const TileShapes& shapes) {
  asm volatile("ldtilecfg %0" : : "m"(shapes));
}

// Back to the initial state, which keeps context switches cheap.
inline void release_tiles() { asm volatile("tilerelease"); }

template <int tile>
inline void zero_tile() {
  asm volatile("tilezero %%tmm%c0" : : "i"(tile));
}

// Rows lie `stride` bytes apart.
template <int tile>
inline void load_tile(const void* base, ptrdiff_t stride) {
  asm volatile("tileloadd (%0,%1,1), %%tmm%c2" : : "r"(base), "r"(stride), "i"(tile) : "memory");
}

template <int tile>
inline void store_tile(void* base, ptrdiff_t stride) {
  asm volatile("tilestored %%tmm%c2, (%0,%1,1)" : : "r"(base), "r"(stride), "i"(tile) : "memory");
}

// c += a · b, of signed bytes [rows][4·quads] and unsigned bytes [quads][16][4].
template <int c, int a, int b>
inline void dot_bytes() {
  asm volatile("tdpbsud %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(c), "i"(a), "i"(b));
}

// c += a · b, of bf16 [rows][2·pairs] and [pairs][16][2].
template <int c, int a, int b>
inline void dot_bf16() {
  asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(c), "i"(a), "i"(b));
}

#else

struct Tiles {
  TileShapes shapes;
  uint8_t data[8][16][64];
};
thread_local Tiles tiles;

inline void configure_tiles(const TileShapes& shapes) {
  tiles.shapes = shapes;
  memset(tiles.data, 0, sizeof tiles.data);
}

inline void release_tiles() { configure_tiles({}); }

// What the processor would refuse with an invalid-opcode fault.
inline void require(bool allowed) {
  if (!allowed) __builtin_trap();
}

template <int tile>
inline void zero_tile() {
  require(tiles.shapes.rows[tile] > 0);
  memset(tiles.data[tile], 0, sizeof tiles.data[tile]);
}

template <int tile>
inline void load_tile(const void* base, ptrdiff_t stride) {
  zero_tile<tile>();
  for (int row = 0; row < tiles.shapes.rows[tile]; ++row)
    memcpy(tiles.data[tile][row], static_cast<const uint8_t*>(base) + row * stride,
           tiles.shapes.row_bytes[tile]);
}

template <int tile>
inline void store_tile(void* base, ptrdiff_t stride) {
  require(tiles.shapes.rows[tile] > 0);
  for (int row = 0; row < tiles.shapes.rows[tile]; ++row)
    memcpy(static_cast<uint8_t*>(base) + row * stride, tiles.data[tile][row],
           tiles.shapes.row_bytes[tile]);
}

template <int c, int a, int b>
inline void require_shapes() {
  const TileShapes& shapes = tiles.shapes;
  require(shapes.rows[c] > 0 && shapes.rows[c] == shapes.rows[a]);
  require(shapes.row_bytes[c] == shapes.row_bytes[b]);
  require(shapes.row_bytes[a] == 4 * shapes.rows[b]);
}

template <int c, int a, int b>
inline void dot_bytes() {
  require_shapes<c, a, b>();
  for (int m = 0; m < tiles.shapes.rows[c]; ++m)
    for (int n = 0; n < tiles.shapes.row_bytes[c] / 4; ++n) {
      int32_t sum;
      memcpy(&sum, &tiles.data[c][m][n * 4], 4);
      for (int k = 0; k < tiles.shapes.row_bytes[a]; ++k)
        sum += static_cast<int8_t>(tiles.data[a][m][k]) * tiles.data[b][k / 4][n * 4 + k % 4];
      memcpy(&tiles.data[c][m][n * 4], &sum, 4);
    }
}

inline float bf16_of_tile(int tile, int row, int i) {
  uint16_t value;
  memcpy(&value, &tiles.data[tile][row][i * 2], 2);
  return bf16_to_float(value);
}

// Even and odd columns are summed apart, then together, then onto c.
template <int c, int a, int b>
inline void dot_bf16() {
  require_shapes<c, a, b>();
  for (int m = 0; m < tiles.shapes.rows[c]; ++m)
    for (int n = 0; n < tiles.shapes.row_bytes[c] / 4; ++n) {
      float sum, parts[2] = {0, 0};
      for (int k = 0; k < tiles.shapes.row_bytes[a] / 2; ++k)
        parts[k % 2] = __builtin_fmaf(bf16_of_tile(a, m, k), bf16_of_tile(b, k / 2, n * 2 + k % 2),
                                      parts[k % 2]);
      memcpy(&sum, &tiles.data[c][m][n * 4], 4);
      sum += parts[0] + parts[1];
      memcpy(&tiles.data[c][m][n * 4], &sum, 4);
    }
}

#endif

}  // namespace
}  // namespace stoker::STOKER_ISA
