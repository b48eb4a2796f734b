// How the vector kernels walk a product: in tiles of a few rows of x by one, two or four panels of
// weights, whose sums stay in registers.
#pragma once

#include <xmmintrin.h>

#include "isa/kernels.h"

namespace stoker::STOKER_ISA {
namespace {

// Weights to fetch from memory during a tile: `lines` cache lines of codes with each block and, if
// `factors`, the scales and mins of as many panels as the tile's. While the tiles of some panels
// are computed the next panels come in, an even share of the codes with each tile, so that memory
// is neither waited for nor idle.
struct Ahead {
  const uint8_t* codes;
  ptrdiff_t lines;
  bool factors;
};

inline void fetch_codes(const Ahead& ahead, ptrdiff_t block) {
  for (ptrdiff_t line = 0; line < ahead.lines; ++line)
    _mm_prefetch(ahead.codes + (block * ahead.lines + line) * 64, _MM_HINT_T0);
}

using Tile = void (*)(const MatmulArgs& args, int m, int panel, const Ahead& ahead);

// `tiles[w]` are the kernels of 2^w panels and 1 … most_rows rows; 2^log_width are the most panels to
// take at a time; `lines` are the cache lines of a block of a panel.
inline void walk_tiles(const MatmulArgs& args, const Tile* const* tiles, int log_width,
                       int most_rows, ptrdiff_t lines) {
  const int tile_count = (args.m_end - args.m_begin + most_rows - 1) / most_rows;
  for (int panel = args.panel_begin; panel < args.panel_end;) {
    while (panel + (1 << log_width) > args.panel_end) --log_width;
    const int next = panel + (1 << log_width);
    const bool last = next >= args.panel_end;
    Ahead ahead{args.codes + next * args.blocks * lines * 64, 0, !last};
    ptrdiff_t lines_left = last ? 0 : lines << log_width;
    for (int m = args.m_begin, tiles_left = tile_count; tiles_left > 0; --tiles_left) {
      const int rows = (args.m_end - m + tiles_left - 1) / tiles_left;  // of 8: 4 and 4
      ahead.lines = (lines_left + tiles_left - 1) / tiles_left;
      tiles[log_width][rows - 1](args, m, panel, ahead);
      ahead.codes += ahead.lines * args.blocks * 64;
      ahead.factors = false;
      lines_left -= ahead.lines;
      m += rows;
    }
    panel = next;
  }
}

}  // namespace
}  // namespace stoker::STOKER_ISA
