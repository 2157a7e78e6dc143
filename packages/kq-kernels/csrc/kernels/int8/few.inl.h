// Sums of products of codes for a few rows of x: each weight is read once from memory, straight from W.
//
// Lanes are words of the reduced dimension. FEW_GROUP rows of W are multiplied with one tile of x after the
// other, at most INT8_FEW_ROWS rows each; from the second tile on they come from the caches. The next group
// is asked for meanwhile, a part of it with each tile. A last chunk that is not whole is multiplied after all
// others, with rows of W that are filled up with zeros.
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
    for (int64_t chunk = 0; chunk < chunks(a.k); ++chunk) {
        const i32 words = load_row_words(a.codes, a.k, chunk * kChunk);
        for_parts([&](auto part) {
            store_words(out, code_part<part>(words));
            out += height * W;
        });
    }
    a.start[a.row] = start_of(a.codes, a.k);
}

// Some chunks of a group of rows of W and of a tile of x.
struct FewTile {
    const int32_t* x;
    const int32_t* start;  // what the sums begin with; null: go on with them
    const int8_t* weight;
    int64_t stride;  // of its rows
    int64_t chunks;
    const int8_t* next;  // the group that comes next, of which some rows are to be asked for
    int64_t next_stride;
    int fetch_begin, fetch_end;
    int32_t* sums;  // rows kFewOutputs apart
};

// Adds the products of one part of a chunk, then those of the next. Not a lambda for each part: the compiler
// would leave the sums in memory.
template <int P, int R, int M>
[[gnu::always_inline]] static inline void few_parts(const i32 (&words)[R], const int32_t* x,
                                                    i32 (&acc)[FEW_GROUP][M]) {
    i32 weights[R];
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) weights[r] = weight_part<P>(words[r]);
#pragma GCC unroll 8
    for (int m = 0; m < M; ++m) {
        const i32 codes = load_words(x + (P * M + m) * W);
#pragma GCC unroll 8
        for (int r = 0; r < R; ++r) acc[r][m] = dot(acc[r][m], weights[r], codes);
    }
    if constexpr (P + 1 < PARTS) few_parts<P + 1>(words, x, acc);
}

// R rows of W, M rows of x.
template <int R, int M>
static void few_tile(const FewTile& a) {
    i32 acc[FEW_GROUP][M];
#pragma GCC unroll 8
    for (int r = 0; r < FEW_GROUP; ++r) {
#pragma GCC unroll 8
        for (int m = 0; m < M; ++m) acc[r][m] = zero_i32();
    }
    const uint8_t* weight = reinterpret_cast<const uint8_t*>(a.weight);
    const int32_t* x = a.x;
    const int8_t* fetched[FEW_GROUP];
    for (int r = 0; r < FEW_GROUP; ++r) {
        const int row = a.fetch_begin + r < a.fetch_end ? a.fetch_begin + r : a.fetch_begin;
        fetched[r] = a.next + row * a.next_stride;
    }
    for (int64_t byte = 0; byte < a.chunks * kChunk; byte += kChunk) {
        i32 words[R];
#pragma GCC unroll 8
        for (int r = 0; r < FEW_GROUP; ++r) prefetch(fetched[r] + byte);
#pragma GCC unroll 8
        for (int r = 0; r < R; ++r) words[r] = load_u32(weight + r * a.stride + byte);
        few_parts<0>(words, x, acc);
        x += PARTS * M * W;
    }
#pragma GCC unroll 8
    for (int m = 0; m < M; ++m) {
        i32 column[FEW_GROUP];
#pragma GCC unroll 8
        for (int r = 0; r < FEW_GROUP; ++r) column[r] = acc[r][m];
        int32_t added[FEW_GROUP];
        store_sums(added, column);
        int32_t* sums = a.sums + m * kFewOutputs;
#pragma GCC unroll 8
        for (int r = 0; r < R; ++r) {
            const int32_t before = a.start == nullptr ? sums[r] : a.start[m];
            sums[r] = static_cast<int32_t>(static_cast<uint32_t>(before) + static_cast<uint32_t>(added[r]));
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

// The last codes of a group of rows, filled up with zeros.
struct FilledUp {
    int8_t codes[FEW_GROUP * kChunk];
    FilledUp(const Int8ProductArgs& a, int64_t n, int64_t rows, int64_t whole) {
        if (whole * kChunk == a.k) return;
        for (int64_t r = 0; r < rows; ++r) {
            const i32 words = load_row_words(a.weight + (n + r) * a.k, a.k, whole * kChunk);
            std::memcpy(codes + r * kChunk, &words, kChunk);
        }
    }
};

// Rows [n, n + R) of W.
template <int R>
static inline void few_group(const Int8ProductArgs& a, const Tiling& tiling, int64_t n, int32_t* sums) {
    const int64_t whole = a.k / kChunk;
    const FilledUp last(a, n, R, whole);
    const int8_t* weight = a.weight + n * a.k;
    for (int64_t tile = 0; tile < tiling.count; ++tile) {
        const int64_t first = tiling.begin(tile), height = tiling.height_of(tile);
        const auto fetched = [&](int64_t i) { return static_cast<int>(FEW_GROUP * i / tiling.count); };
        const FewTileProduct multiply = kFewTiles<R>[height - 1];
        const int32_t* x = a.x + first * chunks(a.k) * PARTS * W;
        FewTile call{x,
                     a.start + first,
                     weight,
                     a.k,
                     whole,
                     weight + R * a.k,
                     a.k,
                     fetched(tile),
                     fetched(tile + 1),
                     sums + first * kFewOutputs};
        multiply(call);
        if (chunks(a.k) == whole) continue;
        call.x += whole * height * PARTS * W;
        call.start = nullptr;
        call.weight = last.codes;
        call.stride = kChunk;
        call.chunks = 1;
        multiply(call);
    }
}

void int8_few_multiply(const Int8ProductArgs& a, int64_t begin, int64_t end, int32_t* scratch) {
    const Tiling tiling(a.m, INT8_FEW_ROWS);
    float* prepared = reinterpret_cast<float*>(scratch + a.m * kFewOutputs);
    for (int64_t n = begin; n < end; n += kFewOutputs) {
        const int64_t count = end - n < kFewOutputs ? end - n : kFewOutputs;
        int64_t i = 0;
        for (; i + FEW_GROUP <= count; i += FEW_GROUP) few_group<FEW_GROUP>(a, tiling, n + i, scratch + i);
        for (; i < count; ++i) few_group<1>(a, tiling, n + i, scratch + i);
        prepare_outputs(a, n, count, prepared);  // now that the rows of W are in the cache
        finish_block(a, {scratch, kFewOutputs, 0, a.m, n, count, prepared});
    }
}

}  // namespace kq::KQ_ISA
