// Products of a tile of x, up to TILE rows, with a sliver of decoded weights.
#pragma once

#include <array>
#include <utility>

#include "kernels/write.inl.h"

namespace kq::KQ_ISA {

constexpr int64_t kOutputs = 2 * W;  // of a sliver
constexpr int64_t kRowsAhead = 12;
constexpr int64_t kFloatsPerLine = 16;

// Where the results of a tile go: its first `count` columns, rows `stride` apart. `bias` may be null.
template <class T>
struct TileResults {
    T* out;
    int64_t stride;
    const T* bias;
    int64_t count;
};

// sums[i, 0..2W) += sum over r of x[r, i] * w[r, 0..2W), in the order of r, for H values of i. The first
// slice of the reduced dimension starts from zero; the last one goes to `results`, which is null for the
// others.
//
// Weights come from the level-2 cache, a few rows ahead of their use. x of the tile behind this one is
// brought there.
template <int H, class T>
static void multiply_tile(const float* x, const float* w, int64_t reduce, bool first, float* sums,
                          const TileResults<T>* results) {
    f32 acc[H][2];
#pragma GCC unroll 16
    for (int i = 0; i < H; ++i) {
        acc[i][0] = first ? set1(0.0f) : load(sums + i * kOutputs);
        acc[i][1] = first ? set1(0.0f) : load(sums + i * kOutputs + W);
    }
    for (int64_t r = 0; r < reduce; ++r) {
        const f32 w0 = load(w + r * kOutputs);
        const f32 w1 = load(w + r * kOutputs + W);
        for (int64_t j = 0; j < kOutputs; j += kFloatsPerLine) prefetch(w + (r + kRowsAhead) * kOutputs + j);
        prefetch_l2(x + (r + reduce) * H);
#pragma GCC unroll 16
        for (int i = 0; i < H; ++i) {
            const f32 factor = set1(x[r * H + i]);
            acc[i][0] = fma(factor, w0, acc[i][0]);
            acc[i][1] = fma(factor, w1, acc[i][1]);
        }
    }
#pragma GCC unroll 16
    for (int i = 0; i < H; ++i) {
        if (results == nullptr) {
            store(sums + i * kOutputs, acc[i][0]);
            store(sums + i * kOutputs + W, acc[i][1]);
        } else {
            T* out = results->out + i * results->stride;
            const T* bias = results->bias;
            write_sums(acc[i][0], bias, results->count, out);
            write_sums(acc[i][1], bias == nullptr ? nullptr : bias + W, results->count - W, out + W);
        }
    }
}

template <class T>
using MultiplyTile = void (*)(const float*, const float*, int64_t, bool, float*, const TileResults<T>*);

template <class T, int... I>
static constexpr std::array<MultiplyTile<T>, TILE> tile_products(std::integer_sequence<int, I...>) {
    return {multiply_tile<I + 1, T>...};
}

// By height - 1.
template <class T>
static constexpr auto kMultiplyTile = tile_products<T>(std::make_integer_sequence<int, TILE>{});

}  // namespace kq::KQ_ISA
