// Sums of products of codes for many rows of x.
//
// Lanes are outputs. Rows of W are transposed as words into slivers, two vectors of outputs by a slice of the
// reduced dimension, those of a pass together in the level-2 cache, and multiplied with one tile of x after
// the other. Sums that are not complete wait in memory.
#pragma once

#include <array>

#include "kernels/int8/finish.inl.h"
#include "kernels/int8/operands.inl.h"

namespace kq::KQ_ISA {

constexpr int64_t kOutputs = 2 * W;
constexpr int64_t kPassOutputs = 128;
// Steps of a slice. Few rows of x stay in the level-2 cache: then it pays to make one sliver at a time, in
// the level-1 cache. Many are read from memory once for all outputs of a pass.
constexpr int64_t kCachedRows = 96;
constexpr int64_t kFewerSteps = 128, kMostSteps = 576;
constexpr int64_t kStepUnit = W * PARTS;
constexpr int64_t kStepsAhead = 12;
static_assert(kPassOutputs == kFinishOutputs && kPassOutputs % kOutputs == 0);
static_assert(kFewerSteps % kStepUnit == 0 && kMostSteps % kStepUnit == 0);

// Whether tiles are multiplied with two slivers side by side, which takes fewer loads for a product.
static inline bool in_pairs(int64_t m) { return PAIR_TILE > 0 && m > kCachedRows; }
static inline Tiling tiling_of(int64_t m) { return {m, in_pairs(m) ? PAIR_TILE : TILE}; }

static inline int64_t pass_outputs(int64_t m) { return m <= kCachedRows ? kOutputs : kPassOutputs; }

// The cut of the reduced dimension into slices of `length` steps, of which the last may be shorter.
struct Slicing {
    int64_t steps, length;
    Slicing(int64_t m, int64_t k) : steps(steps_of(k)) {
        const int64_t most = m <= kCachedRows ? kFewerSteps : kMostSteps;
        const int64_t count = steps <= most ? 1 : (steps + most - 1) / most;
        length = (steps + count * kStepUnit - 1) / (count * kStepUnit) * kStepUnit;
    }
    int64_t length_at(int64_t begin) const { return steps - begin < length ? steps - begin : length; }
};

int64_t int8_many_packed(int64_t m, int64_t k) { return m * steps_of(k); }
int64_t int8_many_scratch(int64_t m, int64_t outlier_columns) {
    return kPassOutputs * (kMostSteps + m) + prepared_size(outlier_columns);
}

void int8_many_pack(const Int8PackArgs& a) {
    const Tiling tiling = tiling_of(a.m);
    const Slicing slicing(a.m, a.k);
    const int64_t tile = tiling.tile_of(a.row);
    const int64_t first = tiling.begin(tile), height = tiling.height_of(tile);
    for (int64_t step = 0; step < slicing.steps; step += kStepUnit) {
        const int64_t begin = step / slicing.length * slicing.length;
        const int64_t slice = slicing.length_at(begin);
        int32_t* out = a.x + begin * a.m + first * slice + (step - begin) * height + a.row - first;
        const i32 words = load_row_words(a.codes, a.k, step / PARTS * 4);
        const int64_t left = (slicing.steps - step) / PARTS;
        const int64_t count = left < W ? left : W;
        for_parts([&](auto part) {
            int32_t codes[W];
            store_words(codes, code_part<part>(words));
            for (int64_t i = 0; i < count; ++i) out[(i * PARTS + part) * height] = codes[i];
        });
    }
    a.start[a.row] = start_of(a.codes, a.k);
}

// Rows [n, n + W) of W, of which `count` exist, steps [begin, begin + steps): W lanes of a sliver.
static inline void pack_rows(const Int8ProductArgs& a, int64_t n, int64_t count, int64_t begin, int64_t steps,
                             int32_t* out) {
    const int8_t* rows = a.weight + n * a.k;
    for (int64_t step = 0; step < steps; step += kStepUnit) {
        const int64_t byte = (begin + step) / PARTS * 4;
        i32 words[W];
        if (count >= W && byte + kChunk <= a.k) {
#pragma GCC unroll 16
            for (int64_t j = 0; j < W; ++j) {
                words[j] = load_u32(reinterpret_cast<const uint8_t*>(rows + j * a.k + byte));
            }
        } else {
            for (int64_t j = 0; j < W; ++j) {
                words[j] = j < count ? load_row_words(rows + j * a.k, a.k, byte) : zero_i32();
            }
        }
        transpose(words);
        const int64_t left = (steps - step) / PARTS;
        const auto write = [&](int64_t j) {
            for_parts([&](auto part) {
                store_words(out + (step + j * PARTS + part) * kOutputs, weight_part<part>(words[j]));
            });
        };
        if (left >= W) {
#pragma GCC unroll 16
            for (int64_t j = 0; j < W; ++j) write(j);
        } else {
            for (int64_t j = 0; j < left; ++j) write(j);
        }
    }
}

// Rows of W that the next slice needs, to be asked for meanwhile: one line of each in as many steps.
constexpr int64_t kFetchedRows = 16 * PARTS;
struct Fetch {
    const int8_t* rows;
    int64_t stride;
};

// sums[i, 0..2SW) of H rows: `start` (the first slice) or what they were, plus the products of a slice of S
// slivers that lie `apart`.
template <int H, int S>
static void int8_tile(const int32_t* x, const int32_t* w, int64_t apart, int64_t steps, const int32_t* start,
                      int32_t* sums, Fetch fetch) {
    constexpr int V = 2 * S;
    i32 acc[H][V];
#pragma GCC unroll 16
    for (int i = 0; i < H; ++i) {
#pragma GCC unroll 4
        for (int v = 0; v < V; ++v) {
            acc[i][v] = start != nullptr ? spread(start[i]) : load_words(sums + i * kPassOutputs + v * W);
        }
    }
    for (int64_t s = 0; s < steps;) {
        const int8_t* fetched = fetch.rows + s / PARTS * 4;
        for (const int64_t stop = steps - s < kFetchedRows ? steps : s + kFetchedRows; s < stop; ++s) {
            i32 weights[V];
#pragma GCC unroll 4
            for (int v = 0; v < V; ++v) weights[v] = load_words(w + v / 2 * apart + s * kOutputs + v % 2 * W);
#pragma GCC unroll 4
            for (int t = 0; t < S; ++t) {
                for (int64_t j = 0; j < kOutputs; j += 16) {
                    prefetch(w + t * apart + (s + kStepsAhead) * kOutputs + j);
                }
            }
            prefetch(x + (s + kStepsAhead) * H);
            prefetch_l2(x + (s + steps) * H);
            prefetch_l2(fetched);
            fetched += fetch.stride;
#pragma GCC unroll 16
            for (int i = 0; i < H; ++i) {
                const i32 codes = spread(x[s * H + i]);
#pragma GCC unroll 4
                for (int v = 0; v < V; ++v) acc[i][v] = dot(acc[i][v], weights[v], codes);
            }
        }
    }
#pragma GCC unroll 16
    for (int i = 0; i < H; ++i) {
#pragma GCC unroll 4
        for (int v = 0; v < V; ++v) store_words(sums + i * kPassOutputs + v * W, acc[i][v]);
    }
}

using Int8Tile = void (*)(const int32_t*, const int32_t*, int64_t, int64_t, const int32_t*, int32_t*, Fetch);

template <int S, int... I>
static constexpr std::array<Int8Tile, sizeof...(I)> int8_tiles(std::integer_sequence<int, I...>) {
    return {int8_tile<I + 1, S>...};
}

// By height - 1.
template <int S>
static constexpr auto kInt8Tiles =
    int8_tiles<S>(std::make_integer_sequence<int, S == 1 ? TILE : PAIR_TILE>{});

static inline Int8Tile int8_tile_of(int64_t height, bool pair) {
    if constexpr (PAIR_TILE > 0) {
        if (pair) return kInt8Tiles<2>[height - 1];
    }
    return kInt8Tiles<1>[height - 1];
}

// Outputs [n, n + outer) of all rows.
static void int8_pass(const Int8ProductArgs& a, int64_t n, int64_t outer, int32_t* scratch) {
    const Tiling tiling = tiling_of(a.m);
    const Slicing slicing(a.m, a.k);
    int32_t* slivers = scratch;
    int32_t* sums = slivers + kPassOutputs * kMostSteps;
    float* prepared = reinterpret_cast<float*>(sums + kPassOutputs * a.m);
    int64_t begin = 0;
    do {  // once for an empty sum
        const int64_t steps = slicing.length_at(begin);
        const bool last = begin + steps == slicing.steps;
        for (int64_t i = 0; i < outer; i += kOutputs) {
            int32_t* sliver = slivers + i * slicing.length;
            pack_rows(a, n + i, outer - i, begin, steps, sliver);
            pack_rows(a, n + i + W, outer - i - W, begin, steps, sliver + W);
        }
        if (last) prepare_outputs(a, n, outer, prepared);
        const int8_t* next = a.weight + (last ? (n + outer) * a.k : n * a.k + (begin + steps) / PARTS * 4);
        int64_t fetched = 0;
        for (int64_t tile = 0; tile < tiling.count; ++tile) {
            const int64_t first = tiling.begin(tile);
            const int64_t height = tiling.height_of(tile);
            for (int64_t i = 0; i < outer;) {
                const bool pair = in_pairs(a.m) && outer - i > kOutputs;
                int8_tile_of(height, pair)(
                    a.x + begin * a.m + first * steps, slivers + i * slicing.length,
                    kOutputs * slicing.length, steps, begin == 0 ? a.start + first : nullptr,
                    sums + first * kPassOutputs + i,
                    fetched < outer ? Fetch{next + fetched * a.k, a.k} : Fetch{next, 0});
                fetched += kFetchedRows;
                i += pair ? 2 * kOutputs : kOutputs;
            }
            if (last) {
                finish_block(a,
                             {sums + first * kPassOutputs, kPassOutputs, first, height, n, outer, prepared});
            }
        }
        begin += slicing.length;
    } while (begin < slicing.steps);
}

void int8_many_multiply(const Int8ProductArgs& a, int64_t begin, int64_t end, int32_t* scratch) {
    const int64_t most = pass_outputs(a.m);
    for (int64_t n = begin; n < end; n += most) {
        int8_pass(a, n, end - n < most ? end - n : most, scratch);
    }
}

}  // namespace kq::KQ_ISA
