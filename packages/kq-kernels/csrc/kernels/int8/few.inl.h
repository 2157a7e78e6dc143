// Sums of products of codes for a few rows of x: each weight is read once from memory, straight from W.
//
// Lanes are words of the reduced dimension. FEW_GROUP rows of W are multiplied with one tile of x after the
// other, at most INT8_FEW_ROWS rows each; from the second tile on they come from the level-1 cache. The next
// group is asked for meanwhile, a part of it with each tile.
#pragma once

#include <array>

#include "kernels/int8/finish.inl.h"
#include "kernels/int8/operands.inl.h"

namespace kq::KQ_ISA {

// Outputs whose sums are finished together.
constexpr int64_t kFewOutputs = 64;
static_assert(kFewOutputs % FEW_GROUP == 0 && kFewOutputs <= kFinishOutputs);

int64_t int8_few_packed(int64_t m, int64_t k) { return m * chunks(k) * PARTS * W; }
int64_t int8_few_scratch(int64_t m, int64_t outlier_columns) {
    return m * kFewOutputs + prepared_size(outlier_columns);
}

void int8_few_pack(const Int8PackArgs& a) {
    const Tiling tiling(a.m, INT8_FEW_ROWS);
    const int64_t tile = tiling.tile_of(a.row);
    const int64_t first = tiling.begin(tile), height = tiling.height_of(tile);
    int32_t* out = a.x + (first * chunks(a.k) * PARTS + a.row - first) * W;
    for (int64_t byte = 0; byte < a.k; byte += kChunk) {
        const i32 words = load_row_words(a.codes, a.k, byte);
        for_parts([&](auto part) {
            store_words(out, code_part<part>(words));
            out += height * W;
        });
    }
    a.start[a.row] = start_of(a.codes, a.k);
}

// A group of rows of W and a tile of x.
struct FewTile {
    const int32_t* x;
    const int32_t* start;
    const int8_t* weight;
    int64_t k;
    int fetch_begin, fetch_end;  // rows of the next group to ask for
    int32_t* sums;               // rows kFewOutputs apart
};

// R rows of W, M rows of x.
template <int R, int M>
static void few_tile(const FewTile& a) {
    i32 acc[FEW_GROUP][M];
    for (int r = 0; r < FEW_GROUP; ++r) {
        for (int m = 0; m < M; ++m) acc[r][m] = zero_i32();
    }
    const int32_t* x = a.x;
    const auto add_chunk = [&](const auto& words_of) {
        i32 words[R];
        for (int r = 0; r < R; ++r) words[r] = words_of(reinterpret_cast<const uint8_t*>(a.weight) + r * a.k);
        for_parts([&](auto part) {
            i32 weights[R];
            for (int r = 0; r < R; ++r) weights[r] = weight_part<part>(words[r]);
            for (int m = 0; m < M; ++m) {
                const i32 codes = load_words(x + m * W);
                for (int r = 0; r < R; ++r) acc[r][m] = dot(acc[r][m], weights[r], codes);
            }
            x += M * W;
        });
    };
    int64_t byte = 0;
    for (; byte + kChunk <= a.k; byte += kChunk) {
        for (int r = a.fetch_begin; r < a.fetch_end; ++r) prefetch(a.weight + (FEW_GROUP + r) * a.k + byte);
        add_chunk([&](const uint8_t* row) { return load_u32(row + byte); });
    }
    if (byte < a.k) {
        const int rest = static_cast<int>(a.k - byte);
        add_chunk([&](const uint8_t* row) { return load_u32_n(row + byte, rest); });
    }
    for (int m = 0; m < M; ++m) {
        i32 column[FEW_GROUP];
        for (int r = 0; r < FEW_GROUP; ++r) column[r] = acc[r][m];
        int32_t sums[FEW_GROUP];
        store_sums(sums, column);
        const uint32_t start = static_cast<uint32_t>(a.start[m]);
        for (int r = 0; r < R; ++r) {
            a.sums[m * kFewOutputs + r] = static_cast<int32_t>(static_cast<uint32_t>(sums[r]) + start);
        }
    }
}

using FewTileProduct = void (*)(const FewTile&);

template <int R, int... I>
static constexpr std::array<FewTileProduct, INT8_FEW_ROWS> few_tiles(std::integer_sequence<int, I...>) {
    return {few_tile<R, I + 1>...};
}

// By the number of rows of x - 1.
template <int R>
static constexpr auto kFewTiles = few_tiles<R>(std::make_integer_sequence<int, INT8_FEW_ROWS>{});

// Rows [n, n + R) of W.
template <int R>
static inline void few_group(const Int8ProductArgs& a, const Tiling& tiling, int64_t n, int32_t* sums) {
    for (int64_t tile = 0; tile < tiling.count; ++tile) {
        const int64_t first = tiling.begin(tile);
        const auto fetched = [&](int64_t i) { return static_cast<int>(FEW_GROUP * i / tiling.count); };
        kFewTiles<R>[tiling.height_of(tile) - 1]({a.x + first * chunks(a.k) * PARTS * W, a.start + first,
                                                  a.weight + n * a.k, a.k, fetched(tile), fetched(tile + 1),
                                                  sums + first * kFewOutputs});
    }
}

void int8_few_multiply(const Int8ProductArgs& a, int64_t begin, int64_t end, int32_t* scratch) {
    const Tiling tiling(a.m, INT8_FEW_ROWS);
    int32_t* sums = scratch;
    float* prepared = reinterpret_cast<float*>(scratch + a.m * kFewOutputs);
    for (int64_t n = begin; n < end; n += kFewOutputs) {
        const int64_t count = end - n < kFewOutputs ? end - n : kFewOutputs;
        int64_t i = 0;
        for (; i + FEW_GROUP <= count; i += FEW_GROUP) few_group<FEW_GROUP>(a, tiling, n + i, sums + i);
        for (; i < count; ++i) few_group<1>(a, tiling, n + i, sums + i);
        prepare_outputs(a, n, count, prepared);  // now that the rows of W are in the cache
        finish_block(a, {sums, kFewOutputs, 0, a.m, n, count, prepared});
    }
}

}  // namespace kq::KQ_ISA
