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
constexpr int64_t kMostSteps = 576;  // of a slice
constexpr int64_t kStepUnit = W * PARTS;
constexpr int64_t kStepsAhead = 12;
static_assert(kPassOutputs == kFinishOutputs && kPassOutputs % kOutputs == 0 && kMostSteps % kStepUnit == 0);

// The cut of the reduced dimension into slices of `length` steps, of which the last may be shorter.
struct Slicing {
    int64_t steps, length;
    explicit Slicing(int64_t k) : steps(steps_of(k)) {
        const int64_t count = steps <= kMostSteps ? 1 : (steps + kMostSteps - 1) / kMostSteps;
        length = (steps + count * kStepUnit - 1) / (count * kStepUnit) * kStepUnit;
    }
    int64_t length_at(int64_t begin) const { return steps - begin < length ? steps - begin : length; }
};

int64_t int8_many_packed(int64_t m, int64_t k) { return m * steps_of(k); }
int64_t int8_many_scratch(int64_t m, int64_t outlier_columns) {
    return kPassOutputs * (kMostSteps + m) + prepared_size(outlier_columns);
}

void int8_many_pack(const Int8PackArgs& a) {
    const Tiling tiling(a.m);
    const Slicing slicing(a.k);
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
        for (int64_t j = 0; j < W; ++j) {
            words[j] = j < count ? load_row_words(rows + j * a.k, a.k, byte) : zero_i32();
            // The rows that are packed next: W streams, too many for the processor to follow.
            prefetch_l2(rows + (j + kOutputs) * a.k + byte);
        }
        transpose(words);
        const int64_t left = (steps - step) / PARTS;
        for (int64_t j = 0; j < W && j < left; ++j) {
            for_parts([&](auto part) {
                store_words(out + (step + j * PARTS + part) * kOutputs, weight_part<part>(words[j]));
            });
        }
    }
}

// sums[i, 0..2W) of H rows: `start` (the first slice) or what they were, plus the products of a slice.
template <int H>
static void int8_tile(const int32_t* x, const int32_t* w, int64_t steps, const int32_t* start,
                      int32_t* sums) {
    i32 acc[H][2];
#pragma GCC unroll 16
    for (int i = 0; i < H; ++i) {
        acc[i][0] = start != nullptr ? spread(start[i]) : load_words(sums + i * kPassOutputs);
        acc[i][1] = start != nullptr ? spread(start[i]) : load_words(sums + i * kPassOutputs + W);
    }
    for (int64_t s = 0; s < steps; ++s) {
        const i32 w0 = load_words(w + s * kOutputs);
        const i32 w1 = load_words(w + s * kOutputs + W);
        for (int64_t j = 0; j < kOutputs; j += 16) prefetch(w + (s + kStepsAhead) * kOutputs + j);
        prefetch_l2(x + (s + steps) * H);
#pragma GCC unroll 16
        for (int i = 0; i < H; ++i) {
            const i32 codes = spread(x[s * H + i]);
            acc[i][0] = dot(acc[i][0], w0, codes);
            acc[i][1] = dot(acc[i][1], w1, codes);
        }
    }
#pragma GCC unroll 16
    for (int i = 0; i < H; ++i) {
        store_words(sums + i * kPassOutputs, acc[i][0]);
        store_words(sums + i * kPassOutputs + W, acc[i][1]);
    }
}

using Int8Tile = void (*)(const int32_t*, const int32_t*, int64_t, const int32_t*, int32_t*);

template <int... I>
static constexpr std::array<Int8Tile, TILE> int8_tiles(std::integer_sequence<int, I...>) {
    return {int8_tile<I + 1>...};
}

// By height - 1.
static constexpr auto kInt8Tiles = int8_tiles(std::make_integer_sequence<int, TILE>{});

// Outputs [n, n + outer) of all rows.
static void int8_pass(const Int8ProductArgs& a, int64_t n, int64_t outer, int32_t* scratch) {
    const Tiling tiling(a.m);
    const Slicing slicing(a.k);
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
        for (int64_t tile = 0; tile < tiling.count; ++tile) {
            const int64_t first = tiling.begin(tile);
            const int64_t height = tiling.height_of(tile);
            for (int64_t i = 0; i < outer; i += kOutputs) {
                kInt8Tiles[height - 1](a.x + begin * a.m + first * steps, slivers + i * slicing.length, steps,
                                       begin == 0 ? a.start + first : nullptr,
                                       sums + first * kPassOutputs + i);
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
    for (int64_t n = begin; n < end; n += kPassOutputs) {
        int8_pass(a, n, end - n < kPassOutputs ? end - n : kPassOutputs, scratch);
    }
}

}  // namespace kq::KQ_ISA
