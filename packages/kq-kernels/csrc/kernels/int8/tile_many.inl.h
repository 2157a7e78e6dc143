// Sums of products of codes with tiles, for many rows of x.
//
// For up to kCachedRows rows of x, a unit of outputs at a time is multiplied with all of them straight from
// W, of which each row is one long stream. For more rows, weights are copied: a block of outputs, kStage
// codes of the reduced dimension at a time, is multiplied with all rows of x, panel by panel, while the sums
// wait in the level-2 cache.
//
// The sizes follow from those of the caches (48 KiB and 2 MiB a core where there are tiles), and from what
// was found with a prototype; no processor with tiles was at hand to tune them.
#pragma once

#include <algorithm>

#include "kernels/int8/finish.inl.h"
#include "kernels/int8/tile_operands.inl.h"

namespace kq::amx {

constexpr int64_t kCachedRows = 64;
// Of the reduced dimension: 32 KiB of a unit's weights, and as many of a panel of x, which all units of a
// block share.
constexpr int64_t kStage = 1024;
// 256 KiB of weights, and half a megabyte of sums for the most rows.
constexpr int64_t kBlockOutputs = 256;
constexpr int64_t kFinishOutputs = avx512::kFinishOutputs;
static_assert(kStage % kTileCodes == 0 && kFinishOutputs % kUnit == 0 && kBlockOutputs % kFinishOutputs == 0);

static inline int64_t block_outputs(int64_t m) { return m <= kCachedRows ? kUnit : kBlockOutputs; }

// What lies in the scratch memory, one behind the other.
struct TileScratch {
    int64_t weights, sums, rows, prepared;  // words
    TileScratch(int64_t m, int64_t outlier_columns) {
        const int64_t outputs = block_outputs(m);
        weights = outputs * kStage / 4;
        sums = outputs * row_tiles(m) * kSide;
        rows = kUnit * kFinishOutputs;
        prepared =
            round_up(outputs, kFinishOutputs) / kFinishOutputs * avx512::prepared_size(outlier_columns);
    }
    int64_t size() const { return weights + sums + rows + prepared; }
};

int64_t int8_many_packed(int64_t m, int64_t k) { return row_tiles(m) * code_tiles(k) * kTileWords; }
int64_t int8_many_scratch(int64_t m, int64_t outlier_columns) {
    return TileScratch(m, outlier_columns).size();
}
void int8_many_pack(const Int8PackArgs& a) { pack_codes(a); }

struct Int8Factors {
    template <int C, int WEIGHT, int INPUT>
    static void multiply() {
        tile::multiply_int8<C, WEIGHT, INPUT>();
    }
};

// Tiles of sums, [output tile][x tile], to rows that are kFinishOutputs apart.
static inline void transpose_sums(const int32_t* sums, int64_t outputs, int64_t xtiles, int32_t* rows) {
    for (int64_t i = 0; i < outputs; i += kSide) {
        for (int64_t tile = 0; tile < xtiles; ++tile) {
            avx512::i32 lanes[kSide];
            for (int64_t j = 0; j < kSide; ++j) lanes[j] = avx512::load_words(sums + j * kSide);
            avx512::transpose(lanes);
            int32_t* out = rows + tile * kSide * kFinishOutputs + i;
            for (int64_t j = 0; j < kSide; ++j) avx512::store_words(out + j * kFinishOutputs, lanes[j]);
            sums += kTileWords;
        }
    }
}

// Outputs [begin, end) of all rows of x.
static void int8_block(const Int8ProductArgs& a, int64_t begin, int64_t end, int32_t* scratch) {
    const TileScratch size(a.m, a.finish.columns.count);
    int32_t* copied = scratch;
    int32_t* sums = copied + size.weights;
    int32_t* rows = sums + size.sums;
    float* prepared = reinterpret_cast<float*>(rows + size.rows);
    const bool streamed = a.m <= kCachedRows && end - begin == kUnit;
    int64_t k = 0;
    do {  // once for an empty sum
        const int64_t left = a.k - k;
        const bool in_place = streamed && left >= kTileCodes;
        const int64_t codes = in_place ? left / kTileCodes * kTileCodes : std::min(left, kStage);
        const int64_t steps = code_tiles(codes);
        const bool last = codes == left;
        const auto copy_of = [&](int64_t n) { return copied + (n - begin) / kSide * steps * kTileWords; };
        if (!in_place) {
            for (int64_t n = begin; n < end; n += kUnit) {
                copy_weights(a, n, std::min(end - n, kUnit), k, steps, copy_of(n));
            }
        }
        for (int64_t p = 0; p < panels(a.m); ++p) {
            const Panel panel(a.m, code_tiles(a.k), p);
            const int32_t* x = a.x + (panel.offset + k / kTileCodes * panel.tiles) * kTileWords;
            const int64_t row = p * kUnit;
            int32_t* c = sums + row * block_outputs(a.m);
            const auto sums_of = [&](int64_t n) { return c + (n - begin) * panel.tiles * kSide; };
            for (int64_t n = begin; n < end; n += kUnit) {
                const UnitWeights weights = in_place ? weights_in_place(a, n, k) : packed_weights(copy_of(n));
                multiply_unit<Int8Factors>(weights, x, panel.tiles, steps, k > 0, sums_of(n));
            }
            if (!last) continue;
            float* scales = prepared;
            for (int64_t n = begin; n < end; n += kFinishOutputs) {
                const int64_t count = std::min(end - n, kFinishOutputs);
                if (p == 0) avx512::prepare_outputs(a, n, count, scales);  // rows of W are in the cache now
                transpose_sums(sums_of(n), count, panel.tiles, rows);
                avx512::finish_block(
                    a, {rows, kFinishOutputs, row, std::min(a.m - row, kUnit), n, count, scales});
                scales += avx512::prepared_size(a.finish.columns.count);
            }
        }
        k += codes;
    } while (k < a.k);
}

void int8_many_multiply(const Int8ProductArgs& a, int64_t begin, int64_t end, int32_t* scratch) {
    const tile::Scope configured;
    const int64_t most = block_outputs(a.m);
    for (int64_t n = begin; n < end; n += most) int8_block(a, n, std::min(end, n + most), scratch);
}

}  // namespace kq::amx
