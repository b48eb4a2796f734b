// Quantized products with AMX int8, for sixteen rows of x at a time: a block of a panel is a tile
// as it lies in memory. After each block the 16 × 16 integer sums pass through memory and are scaled
// onto float sums in registers, in the order of the AVX-512 kernel and so with its bits; that kernel
// takes batches, and remainders, too small for a tile to pay.
#pragma once

#include "isa/amx_tiles.h"
#include "isa/matmul_q_avx512.h"

namespace stoker::STOKER_ISA {
namespace {

constexpr int kTileRows = 16;
constexpr int kFewestRows = 8;      // for which a tile is used
constexpr int kChunkBlocks = 64;    // blocks of 4-bit codes that are split at a time: 32 KiB

// Tiles: sums of even and odd blocks, rows of x, weights.
constexpr int kSums[2] = {0, 1}, kRows = 2, kWeights = 3;

inline TileShapes shapes_of(int rows) {
  TileShapes shapes;
  shapes.set(kSums[0], rows, 64);
  shapes.set(kSums[1], rows, 64);
  shapes.set(kRows, rows, kBlockCols);
  shapes.set(kWeights, kBlockCols / 4, 64);
  return shapes;
}

// Splits nibbles: blocks of 256 bytes → blocks of 512, as q8 lies.
inline void split_codes(const uint8_t* codes, ptrdiff_t blocks, uint8_t* out) {
  const __m512i low_bits = _mm512_set1_epi8(15);
  for (ptrdiff_t b = 0; b < blocks; ++b)
    for (int quad = 0; quad < 4; ++quad) {
      const __m512i both = _mm512_load_si512(codes + b * 256 + quad * 64);
      _mm512_store_si512(out + b * 512 + quad * 64, _mm512_and_si512(both, low_bits));
      _mm512_store_si512(out + b * 512 + 256 + quad * 64,
                         _mm512_and_si512(_mm512_srli_epi16(both, 4), low_bits));
    }
}

template <int parity>
inline void multiply_block(const ActivationBlock* x, ptrdiff_t x_stride, const uint8_t* codes,
                           int32_t (*sums)[kPanelRows]) {
  zero_tile<kSums[parity]>();
  load_tile<kRows>(x->codes, x_stride);
  load_tile<kWeights>(codes, 64);
  dot_bytes<kSums[parity], kRows, kWeights>();
  store_tile<kSums[parity]>(sums, sizeof *sums);
}

struct PanelChunk {
  const uint8_t* codes;  // bytes, [blocks][512]
  const uint16_t* scales;
  const uint16_t* mins;
  ptrdiff_t first_block, blocks;
};

// Adds a chunk of a panel's blocks to outputs of up to sixteen rows; the first starts from zero. The
// tiles multiply one block ahead of the scaling.
template <int zero_bits, bool mins>
void amx_tile(const MatmulArgs& args, int m, int rows, int panel, const PanelChunk& chunk) {
  const ptrdiff_t stride = args.blocks * static_cast<ptrdiff_t>(sizeof(ActivationBlock));
  const ActivationBlock* x = args.x->quantized + m * static_cast<ptrdiff_t>(args.blocks);
  const int lanes = args.rows - panel * kPanelRows;
  const auto mask = static_cast<__mmask16>(lanes < kPanelRows ? (1u << lanes) - 1 : 0xFFFF);
  float* out = args.out + m * args.out_stride + panel * kPanelRows;
  alignas(64) int32_t sums[2][kTileRows][kPanelRows];

  __m512 acc[kTileRows];
#pragma GCC unroll 16
  for (int i = 0; i < kTileRows; ++i) {
    acc[i] = _mm512_setzero_ps();
    if (chunk.first_block > 0 && i < rows)
      acc[i] = _mm512_maskz_loadu_ps(mask, out + i * args.out_stride);
  }
  multiply_block<0>(x + chunk.first_block, stride, chunk.codes, sums[0]);
  for (ptrdiff_t c = 0; c < chunk.blocks; ++c) {
    const ptrdiff_t b = chunk.first_block + c;
    if (c + 1 < chunk.blocks) {
      if (c % 2 == 0)
        multiply_block<1>(x + b + 1, stride, chunk.codes + (c + 1) * 512, sums[1]);
      else
        multiply_block<0>(x + b + 1, stride, chunk.codes + (c + 1) * 512, sums[0]);
    }
    const __m512 d = load_halfs(chunk.scales + b * kPanelRows);
    const __m512 block_min = mins ? load_halfs(chunk.mins + b * kPanelRows) : d;
#pragma GCC unroll 16
    for (int i = 0; i < kTileRows; ++i) {
      if (i >= rows) break;
      const ActivationBlock& a = x[i * static_cast<ptrdiff_t>(args.blocks) + b];
      __m512i sum = _mm512_load_si512(sums[c % 2][i]);
      if constexpr (!mins)
        sum = _mm512_add_epi32(sum, _mm512_set1_epi32(a.neg_sum * (1 << zero_bits)));
      if (a.outlier_quad != kNoOutlier)
        sum = _mm512_add_epi32(sum, outlier_sums<false>(chunk.codes + c * 512, a));
      acc[i] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum),
                               _mm512_mul_ps(d, _mm512_set1_ps(a.scale)), acc[i]);
      if constexpr (mins)
        acc[i] = _mm512_fmadd_ps(block_min, _mm512_set1_ps(a.scaled_sum), acc[i]);
    }
  }
#pragma GCC unroll 16
  for (int i = 0; i < kTileRows; ++i)
    if (i < rows) _mm512_mask_storeu_ps(out + i * args.out_stride, mask, acc[i]);
}

template <bool q4, bool mins>
void matmul_amx(const MatmulArgs& args) {
  constexpr int kZeroBits = q4 ? 3 : 7;
  const int count = args.m_end - args.m_begin;
  const int left = count % kTileRows;
  const int with_tiles = left < kFewestRows ? count - left : count;
  const ptrdiff_t chunk_blocks = q4 ? kChunkBlocks : args.blocks;
  alignas(64) uint8_t split[q4 ? kChunkBlocks * 512 : 64];
  int configured = 0;
  for (int panel = args.panel_begin; panel < args.panel_end; ++panel) {
    const ptrdiff_t first = panel * static_cast<ptrdiff_t>(args.blocks);
    PanelChunk chunk{};
    chunk.scales = args.scales + first * kPanelRows;
    chunk.mins = mins ? args.mins + first * kPanelRows : nullptr;
    for (; chunk.first_block < args.blocks; chunk.first_block += chunk_blocks) {
      const ptrdiff_t blocks_left = args.blocks - chunk.first_block;
      chunk.blocks = blocks_left < chunk_blocks ? blocks_left : chunk_blocks;
      chunk.codes = args.codes + (first + chunk.first_block) * (q4 ? 256 : 512);
      if constexpr (q4) {
        split_codes(chunk.codes, chunk.blocks, split);
        chunk.codes = split;
      }
      for (int done = 0; done < with_tiles; done += kTileRows) {
        const int rows = with_tiles - done < kTileRows ? with_tiles - done : kTileRows;
        if (rows != configured) configure_tiles(shapes_of(configured = rows));
        amx_tile<kZeroBits, mins>(args, args.m_begin + done, rows, panel, chunk);
      }
    }
  }
  if (configured) release_tiles();
  if (with_tiles < count) {
    MatmulArgs rest = args;
    rest.m_begin += with_tiles;
    matmul_quantized<q4>(rest);
  }
}

}  // namespace

void matmul_q4(const MatmulArgs& args) {
  args.mins ? matmul_amx<true, true>(args) : matmul_amx<true, false>(args);
}
void matmul_q8(const MatmulArgs& args) {
  args.mins ? matmul_amx<false, true>(args) : matmul_amx<false, false>(args);
}

}  // namespace stoker::STOKER_ISA
