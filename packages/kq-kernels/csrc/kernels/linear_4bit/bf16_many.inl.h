// Products of many rows of x in bfloat16 with tiles.
//
// A block of outputs is decoded kStage values of the reduced dimension at a time, and multiplied with all
// rows of x, panel by panel, while the sums wait in the level-2 cache. An output is summed up in the order of
// the reduced dimension, whatever its row, tile or thread, and always of weights that were rounded to
// bfloat16.
//
// The sizes follow from those of the caches (48 KiB and 2 MiB a core where there are tiles), and from what
// was found with a prototype; no processor with tiles was at hand to tune them.
#pragma once

#include "kernels/linear_4bit/bf16_decode.inl.h"
#include "kernels/linear_4bit/bf16_pack.inl.h"
#include "kernels/tiles/product.inl.h"
#include "kernels/write.inl.h"

namespace kq::amx {

// Of the reduced dimension: 32 KiB of a unit's weights, and as many of a panel of x, which all units of a
// block share.
constexpr int64_t kStage = 512;
// 256 KiB of weights, and half a megabyte of sums for the most rows.
constexpr int64_t kBlockOutputs = 256;
// Few rows of x stay in the level-2 cache, and the codes had better be read in order, but backward, where a
// unit takes 16 bytes of each row.
constexpr int64_t kCachedRows = 64;
static_assert(kStage % kChunk == 0 && kBlockOutputs % kUnit == 0);

static inline int64_t block_outputs(int64_t m, bool transposed) {
    return m <= kCachedRows && !transposed ? kUnit : kBlockOutputs;
}

constexpr int64_t kBlockFloats = kBlockOutputs * kStage / 2;

int64_t many_bf16_packed(int64_t m, int64_t depth) {
    return row_tiles(m) * kSide * round_up(depth, kChunk) / 2;
}

int64_t many_bf16_scratch(int64_t m) { return kBlockFloats + kBlockOutputs * row_tiles(m) * kSide; }

void many_bf16_pack(const PackArgs& a, int64_t begin, int64_t end) { pack_tiles(a, begin, end); }

// Weights are A (forward) or B (backward).
template <bool TRANSPOSED>
struct Bf16Factors {
    template <int C, int WEIGHT, int INPUT>
    static void multiply() {
        if constexpr (TRANSPOSED) {
            tile::multiply_bf16<C, INPUT, WEIGHT>();
        } else {
            tile::multiply_bf16<C, WEIGHT, INPUT>();
        }
    }
};

// Sums of `count` outputs from i0 on and the rows of x from `row` on, to memory.
template <bool TRANSPOSED>
static void write_unit(const Linear4ManyArgs& a, const float* c, int64_t xtiles, int64_t i0, int64_t count,
                       int64_t row) {
    const int64_t stride = TRANSPOSED ? a.weight.geometry.cols : a.weight.geometry.rows;
    const bf16* bias = a.bias == nullptr ? nullptr : static_cast<const bf16*>(a.bias) + i0;
    for (int64_t side = 0; side < 2; ++side) {
        const int64_t outputs = count - side * kSide;
        const bf16* added = bias == nullptr ? nullptr : bias + side * kSide;
        for (int64_t tile = 0; tile < xtiles; ++tile) {
            const float* sums = c + (side * xtiles + tile) * kTileWords;
            avx512::i32 rows[kSide];
            for (int64_t i = 0; i < kSide; ++i) rows[i] = avx512::as_bits(avx512::load(sums + i * kSide));
            if (!TRANSPOSED) avx512::transpose(rows);
            const int64_t first = row + tile * kSide;
            bf16* out = static_cast<bf16*>(a.out) + first * stride + i0 + side * kSide;
            for (int64_t i = 0; i < kSide && first + i < a.m; ++i) {
                avx512::write_sums(avx512::as_floats(rows[i]), added, outputs, out + i * stride);
            }
        }
    }
}

template <bool TRANSPOSED>
static void multiply_block(const Linear4ManyArgs& a, int64_t begin, int64_t end, float* scratch) {
    const Geometry& g = a.weight.geometry;
    const int64_t depth = TRANSPOSED ? g.rows : g.cols;
    const int64_t tiles = depth_tiles(depth, TRANSPOSED);
    const uint16_t* x = reinterpret_cast<const uint16_t*>(a.x);
    uint16_t* decoded = reinterpret_cast<uint16_t*>(scratch);
    float* sums = scratch + kBlockFloats;
    int64_t r = 0;
    do {  // once for an empty sum
        const int64_t reduce = depth - r < kStage ? depth - r : kStage;
        const int64_t steps = depth_tiles(reduce, TRANSPOSED);
        const bool last = r + kStage >= depth;
        const auto unit_weights = [&](int64_t i) {
            return decoded + (i - begin) / kUnit * 2 * steps * kTile;
        };
        for (int64_t i = begin; i < end; i += kUnit) {
            const int64_t count = end - i < kUnit ? end - i : kUnit;
            decode_unit(a.weight, TRANSPOSED, i, count, r, reduce, unit_weights(i));
        }
        for (int64_t p = 0; p < panels(a.m); ++p) {
            const Panel panel(a.m, tiles, p);
            const uint16_t* inputs = x + (panel.offset + r / kTileDepth * panel.tiles) * kTile;
            for (int64_t i = begin; i < end; i += kUnit) {
                float* c = sums + (i - begin) * row_tiles(a.m) * kSide + p * 4 * kTileWords;
                multiply_unit<Bf16Factors<TRANSPOSED>>(packed_weights(unit_weights(i)), inputs, panel.tiles,
                                                       steps, r > 0, c);
                if (last) {
                    const int64_t count = end - i < kUnit ? end - i : kUnit;
                    write_unit<TRANSPOSED>(a, c, panel.tiles, i, count, p * kUnit);
                }
            }
        }
        r += kStage;
    } while (r < depth);
}

void many_bf16_multiply(const Linear4ManyArgs& a, int64_t begin, int64_t end, float* scratch) {
    const tile::Scope configured;
    const int64_t most = block_outputs(a.m, a.transposed);
    for (int64_t i = begin; i < end; i += most) {
        const int64_t stop = end - i < most ? end : i + most;
        if (a.transposed) {
            multiply_block<true>(a, i, stop, scratch);
        } else {
            multiply_block<false>(a, i, stop, scratch);
        }
    }
}

}  // namespace kq::amx
