// How codes lie in memory when they are multiplied with tiles.
//
// Weights are A: a row of a tile has 64 codes of one output. So has W, whose tiles need not be packed but
// where they are read again and again, or are not whole. x is B, in words of four codes: a row of a tile has
// one word of 16 rows of x.
//
// Behind the last code, both have zeros. Outputs and rows of x that only fill up a tile have what happened to
// be there: it reaches no sums but their own, which nobody reads.
#pragma once

#include "kernels/int8/args.h"
#include "kernels/tiles/panels.inl.h"
#include "kernels/tiles/product.inl.h"
#include "kernels/words.inl.h"

namespace kq::amx {

constexpr int64_t kTileCodes = tile::kRowBytes;  // of the reduced dimension

static inline int64_t code_tiles(int64_t k) { return (k + kTileCodes - 1) / kTileCodes; }

// Tile by tile of the reduced dimension, one of the rows that are packed side by side.
static inline void pack_codes(const Int8PackArgs& a) {
    const Panel panel(a.m, code_tiles(a.k), a.row / kUnit);
    int32_t* out = a.x + (panel.offset + a.row % kUnit / kSide) * kTileWords + a.row % kSide;
    for (int64_t k = 0; k < a.k; k += kTileCodes) {
        int32_t words[kSide];
        avx512::store_words(words, avx512::load_row_words(a.codes, a.k, k));
        for (int64_t i = 0; i < kSide; ++i) out[i * kSide] = words[i];
        out += panel.tiles * kTileWords;
    }
}

// Outputs [n, n + 32), codes from k on, where they are.
static inline UnitWeights weights_in_place(const Int8ProductArgs& a, int64_t n, int64_t k) {
    return {reinterpret_cast<const char*>(a.weight + n * a.k + k), a.k, kSide * a.k, kTileCodes};
}

// Outputs [n, n + count), at most 32, and `steps` tiles of codes from k on, as packed_weights expects them.
static inline void copy_weights(const Int8ProductArgs& a, int64_t n, int64_t count, int64_t k, int64_t steps,
                                int32_t* out) {
    for (int64_t i = 0; i < count; ++i) {
        const int8_t* row = a.weight + (n + i) * a.k;
        int32_t* to = out + i * kSide;  // the second tile of a step follows the first
        for (int64_t step = 0; step < steps; ++step) {
            const int64_t first = k + step * kTileCodes;
            // The rows that are copied next: more streams than the processor can follow.
            avx512::prefetch_l2(row + kUnit * a.k + first);
            avx512::store_words(to, avx512::load_row_words(row, a.k, first));
            to += 2 * kTileWords;
        }
    }
}

}  // namespace kq::amx
