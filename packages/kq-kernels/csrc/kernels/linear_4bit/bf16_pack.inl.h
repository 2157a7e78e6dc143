// Rows of x to tiles.
#pragma once

#include "kernels/linear_4bit/bf16_operands.inl.h"

namespace kq::amx {

// 32 numbers of a row from column k on; zero where there are none.
static inline avx512::i32 load_words(const uint16_t* row, int64_t k, int64_t cols) {
    const int64_t left = cols - k;
    if (left >= kTileDepth) return _mm512_loadu_si512(row + k);
    if (left <= 0) return avx512::zero_i32();
    return _mm512_maskz_loadu_epi16((1u << left) - 1u, row + k);
}

// Columns [k, k + 32) of 16 rows, to rows of the four tiles of a chunk, which are `distance` apart. Eight
// neighbouring columns become one row in each: numbers j and 4 + j of them are a pair of tile j.
static inline void pack_pairs(avx512::i32 (&rows)[kSide], int64_t k, int64_t distance, uint16_t* chunk) {
    const avx512::i32 order =
        _mm512_broadcast_i32x4(_mm_setr_epi8(0, 1, 8, 9, 2, 3, 10, 11, 4, 5, 12, 13, 6, 7, 14, 15));
    for (avx512::i32& row : rows) row = _mm512_shuffle_epi8(row, order);
    avx512::transpose(rows);
    uint16_t* out = chunk + k % kChunk / 8 * kTileDepth;
    for (int64_t i = 0; i < kSide; ++i) {
        _mm512_storeu_si512(out + i % 4 * distance + i / 4 * kTileDepth, rows[i]);
    }
}

static inline void pack_tiles(const PackArgs& a, int64_t begin, int64_t end) {
    const int64_t depth = depth_tiles(a.k, a.transposed);
    // Whoever packs the last column fills up the last tiles.
    const int64_t stop = end == a.k ? depth * kTileDepth : end;
    uint16_t* packed = reinterpret_cast<uint16_t*>(a.out);
    for (int64_t tile = 0; tile < row_tiles(a.m); ++tile) {
        const Panel panel(a.m, depth, tile / 2);
        const uint16_t* x = static_cast<const uint16_t*>(a.x) + tile * kSide * a.row_stride;
        const int64_t count = a.m - tile * kSide;
        uint16_t* column = packed + (panel.offset + tile % 2) * kTile;
        for (int64_t k = begin; k < stop; k += kTileDepth) {
            avx512::i32 rows[kSide];
            for (int64_t i = 0; i < kSide; ++i) {
                rows[i] = i < count ? load_words(x + i * a.row_stride, k, a.k) : avx512::zero_i32();
            }
            const int64_t distance = panel.tiles * kTile;
            if (a.transposed) {
                uint16_t* out = column + k / kTileDepth * distance;
                for (int64_t i = 0; i < kSide; ++i) _mm512_storeu_si512(out + i * kTileDepth, rows[i]);
            } else {
                pack_pairs(rows, k, distance, column + k / kChunk * kChunkTiles * distance);
            }
        }
    }
}

}  // namespace kq::amx
