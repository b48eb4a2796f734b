// bf16 products with AMX: a block of a panel is a tile as it lies in memory. Up to 32 rows of x and
// two panels at a time, whose sums stay in four tiles for all columns. A sum depends on nothing but
// its own row and column, so single rows and remainders use the same instructions.
#pragma once

#include "isa/amx_tiles.h"
#include "isa/tiles_avx512.h"

namespace stoker::STOKER_ISA {
namespace {

constexpr int kTileRows = 16;

// Tiles: 0 … 3 the sums [rows of x][panel], 4 and 5 rows of x, 6 and 7 weights.
inline TileShapes bf16_shapes(int first_rows, int second_rows) {
  TileShapes shapes;
  shapes.set(0, first_rows, 64);
  shapes.set(1, first_rows, 64);
  shapes.set(4, first_rows, 64);
  if (second_rows) {
    shapes.set(2, second_rows, 64);
    shapes.set(3, second_rows, 64);
    shapes.set(5, second_rows, 64);
  }
  shapes.set(6, 16, 64);
  shapes.set(7, 16, 64);
  return shapes;
}

template <int tile>
void store_sums(const MatmulArgs& args, int m, int rows, int panel) {
  alignas(64) float sums[kTileRows][kPanelRows];
  store_tile<tile>(sums, sizeof *sums);
  const int lanes = args.rows - panel * kPanelRows;
  const auto mask = static_cast<__mmask16>(lanes < kPanelRows ? (1u << lanes) - 1 : 0xFFFF);
  for (int i = 0; i < rows; ++i)
    _mm512_mask_storeu_ps(args.out + (m + i) * args.out_stride + panel * kPanelRows, mask,
                          _mm512_load_ps(sums[i]));
}

template <bool two_row_tiles, bool two_panels>
void bf16_amx_tile(const MatmulArgs& args, int m, int rows, int panel) {
  constexpr ptrdiff_t kBlockBytes = kPanelRows * kBlockCols * 2;
  const ptrdiff_t blocks = args.blocks, x_stride = blocks * kBlockCols * 2;
  const uint8_t* first = args.codes + panel * blocks * kBlockBytes;
  const uint8_t* second = first + blocks * kBlockBytes;
  const uint16_t* x = args.x->values + m * blocks * kBlockCols;
  const uint16_t* x_second = x + kTileRows * blocks * kBlockCols;
  zero_tile<0>();
  if constexpr (two_panels) zero_tile<1>();
  if constexpr (two_row_tiles) zero_tile<2>();
  if constexpr (two_row_tiles && two_panels) zero_tile<3>();
  for (ptrdiff_t b = 0; b < blocks; ++b) {
    load_tile<4>(x + b * kBlockCols, x_stride);
    load_tile<6>(first + b * kBlockBytes, 64);
    dot_bf16<0, 4, 6>();
    if constexpr (two_panels) {
      load_tile<7>(second + b * kBlockBytes, 64);
      dot_bf16<1, 4, 7>();
    }
    if constexpr (two_row_tiles) {
      load_tile<5>(x_second + b * kBlockCols, x_stride);
      dot_bf16<2, 5, 6>();
      if constexpr (two_panels) dot_bf16<3, 5, 7>();
    }
  }
  const int upper = two_row_tiles ? kTileRows : rows;
  store_sums<0>(args, m, upper, panel);
  if constexpr (two_panels) store_sums<1>(args, m, upper, panel + 1);
  if constexpr (two_row_tiles) {
    store_sums<2>(args, m + kTileRows, rows - kTileRows, panel);
    if constexpr (two_panels) store_sums<3>(args, m + kTileRows, rows - kTileRows, panel + 1);
  }
}

}  // namespace

void matmul_bf16(const MatmulArgs& args) {
  int configured = 0;
  for (int panel = args.panel_begin; panel < args.panel_end; panel += 2) {
    const bool pair = panel + 2 <= args.panel_end;
    for (int m = args.m_begin, rows; m < args.m_end; m += rows) {
      rows = args.m_end - m < 2 * kTileRows ? args.m_end - m : 2 * kTileRows;
      const bool two = rows > kTileRows;
      if (rows != configured)
        configure_tiles(two ? bf16_shapes(kTileRows, rows - kTileRows) : bf16_shapes(rows, 0));
      configured = rows;
      if (two)
        pair ? bf16_amx_tile<true, true>(args, m, rows, panel)
             : bf16_amx_tile<true, false>(args, m, rows, panel);
      else
        pair ? bf16_amx_tile<false, true>(args, m, rows, panel)
             : bf16_amx_tile<false, false>(args, m, rows, panel);
    }
  }
  if (configured) release_tiles();
}

}  // namespace stoker::STOKER_ISA
