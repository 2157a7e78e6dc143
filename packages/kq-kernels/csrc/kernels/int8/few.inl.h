// Sums of products of codes for a few rows of x: each weight is read once from memory, straight from W.
//
// Lanes are words of the reduced dimension. FEW_GROUP rows of W are multiplied with one tile of x after the
// other, at most INT8_FEW_ROWS rows each; from the second tile on they come from the caches. The next group
// is asked for meanwhile, the same number of its rows with each tile, so that memory is never idle. A last
// chunk that is not whole is multiplied after all others, with rows of W that are filled up with zeros.
#pragma once

#include <array>

#include "kernels/int8/finish.inl.h"
#include "kernels/int8/operands.inl.h"

namespace kq::KQ_ISA {

// Outputs whose sums are finished together.
constexpr int64_t kFewOutputs = 64;
static_assert(kFewOutputs % FEW_GROUP == 0 && kFewOutputs <= kFinishOutputs);

static inline Tiling few_tiling(int64_t m) {
    const Tiling tiling(m, INT8_FEW_ROWS);
    // Three tiles would share four rows to ask for unevenly.
    return FEW_GROUP == 4 && tiling.count == 3 ? Tiling(m, (m + 3) / 4) : tiling;
}

int64_t int8_few_packed(int64_t m, int64_t k) { return m * chunks(k) * PARTS * W; }
int64_t int8_few_scratch(int64_t m, int64_t outlier_columns) {
    return m * kFewOutputs + prepared_size(outlier_columns);
}

void int8_few_pack(const Int8PackArgs& a) {
    const Tiling tiling = few_tiling(a.m);
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
    const int8_t* asked;  // rows of the group that comes next
    int64_t asked_stride;
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

static inline int32_t add_wrapping(int32_t a, int32_t b) {
    return static_cast<int32_t>(static_cast<uint32_t>(a) + static_cast<uint32_t>(b));
}

// R rows of W, M rows of x; ASKED rows are asked for.
template <int ASKED, int R, int M>
static void few_tile(const FewTile& a) {
    i32 acc[FEW_GROUP][M];
#pragma GCC unroll 8
    for (int r = 0; r < FEW_GROUP; ++r) {
#pragma GCC unroll 8
        for (int m = 0; m < M; ++m) acc[r][m] = zero_i32();
    }
    const uint8_t* weight = reinterpret_cast<const uint8_t*>(a.weight);
    const int32_t* x = a.x;
    for (int64_t byte = 0; byte < a.chunks * kChunk; byte += kChunk) {
        i32 words[R];
#pragma GCC unroll 8
        for (int r = 0; r < ASKED; ++r) prefetch(a.asked + r * a.asked_stride + byte);
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
        if (a.start != nullptr) {
            const int32_t start = a.start[m];
            for (int r = 0; r < R; ++r) sums[r] = add_wrapping(start, added[r]);
        } else {
            for (int r = 0; r < R; ++r) sums[r] = add_wrapping(sums[r], added[r]);
        }
    }
}

using FewTileProduct = void (*)(const FewTile&);
using FewTileProducts = std::array<FewTileProduct, INT8_FEW_ROWS>;

template <int ASKED, int R, int... I>
static constexpr FewTileProducts few_tiles(std::integer_sequence<int, I...>) {
    return {few_tile<ASKED, R, I + 1>...};
}

// By the number of rows of x - 1.
template <int ASKED, int R>
static constexpr auto kFewTiles = few_tiles<ASKED, R>(std::make_integer_sequence<int, INT8_FEW_ROWS>{});

// How x is cut, and how many rows of the next group are asked for with a tile, until all are.
struct FewPlan {
    Tiling tiling;
    int64_t asked;
    const FewTileProducts* asking;
    explicit FewPlan(int64_t m) : tiling(few_tiling(m)) {
        constexpr int kAll = FEW_GROUP, kHalf = (FEW_GROUP + 1) / 2;
        asked = tiling.count == 1 ? kAll : tiling.count == 2 ? kHalf : 1;
        asking = asked == kAll    ? &kFewTiles<kAll, FEW_GROUP>
                 : asked == kHalf ? &kFewTiles<kHalf, FEW_GROUP>
                                  : &kFewTiles<1, FEW_GROUP>;
    }
};

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
static inline void few_group(const Int8ProductArgs& a, const FewPlan& plan, int64_t n, int32_t* sums) {
    const int64_t whole = a.k / kChunk;
    const FilledUp last(a, n, R, whole);
    const int8_t* weight = a.weight + n * a.k;
    const int8_t* next = weight + FEW_GROUP * a.k;
    for (int64_t tile = 0; tile < plan.tiling.count; ++tile) {
        const int64_t first = plan.tiling.begin(tile), height = plan.tiling.height_of(tile);
        const bool asks = R == FEW_GROUP && tile * plan.asked < FEW_GROUP;
        const FewTileProduct multiply = (asks ? *plan.asking : kFewTiles<0, R>)[height - 1];
        const int32_t* x = a.x + first * chunks(a.k) * PARTS * W;
        FewTile call{x,   a.start + first,           weight, a.k, whole, next + tile * plan.asked * a.k,
                     a.k, sums + first * kFewOutputs};
        multiply(call);
        if (chunks(a.k) == whole) continue;
        call.x += whole * height * PARTS * W;
        call.start = nullptr;
        call.weight = last.codes;
        call.stride = kChunk;
        call.chunks = 1;
        kFewTiles<0, R>[height - 1](call);
    }
}

void int8_few_multiply(const Int8ProductArgs& a, int64_t begin, int64_t end, int32_t* scratch) {
    const FewPlan plan(a.m);
    float* prepared = reinterpret_cast<float*>(scratch + a.m * kFewOutputs);
    for (int64_t n = begin; n < end; n += kFewOutputs) {
        const int64_t count = end - n < kFewOutputs ? end - n : kFewOutputs;
        int64_t i = 0;
        for (; i + FEW_GROUP <= count; i += FEW_GROUP) few_group<FEW_GROUP>(a, plan, n + i, scratch + i);
        for (; i < count; ++i) few_group<1>(a, plan, n + i, scratch + i);
        prepare_outputs(a, n, count, prepared);  // now that the rows of W are in the cache
        finish_block(a, {scratch, kFewOutputs, 0, a.m, n, count, prepared});
    }
}

}  // namespace kq::KQ_ISA
