// Products of a tile of x, up to TILE rows, with a sliver of decoded weights; or, up to PAIR_TILE rows, with
// two, which takes fewer loads for a multiply-add.
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

// sums[i, 0..2SW) += sum over r of x[r, i] * w[r, 0..2SW), in the order of r, for H values of i and S slivers
// that lie `apart`. The first slice of the reduced dimension starts from zero; the last one goes to
// `results`, which is null for the others.
//
// Weights come from the level-2 cache, a few rows ahead of their use. x of the tile behind this one is
// brought there.
template <int H, int S, class T>
static void multiply_tile(const float* x, const float* w, int64_t apart, int64_t reduce, bool first,
                          float* sums, const TileResults<T>* results) {
    constexpr int V = 2 * S;
    f32 acc[H][V];
#pragma GCC unroll 16
    for (int i = 0; i < H; ++i) {
#pragma GCC unroll 4
        for (int v = 0; v < V; ++v) acc[i][v] = first ? set1(0.0f) : load(sums + i * (V * W) + v * W);
    }
    for (int64_t r = 0; r < reduce; ++r) {
        f32 weights[V];
#pragma GCC unroll 4
        for (int v = 0; v < V; ++v) weights[v] = load(w + v / 2 * apart + r * kOutputs + v % 2 * W);
#pragma GCC unroll 4
        for (int s = 0; s < S; ++s) {
            for (int64_t j = 0; j < kOutputs; j += kFloatsPerLine) {
                prefetch(w + s * apart + (r + kRowsAhead) * kOutputs + j);
            }
        }
        prefetch_l2(x + (r + reduce) * H);
#pragma GCC unroll 16
        for (int i = 0; i < H; ++i) {
            const f32 factor = set1(x[r * H + i]);
#pragma GCC unroll 4
            for (int v = 0; v < V; ++v) acc[i][v] = fma(factor, weights[v], acc[i][v]);
        }
    }
#pragma GCC unroll 16
    for (int i = 0; i < H; ++i) {
        if (results == nullptr) {
#pragma GCC unroll 4
            for (int v = 0; v < V; ++v) store(sums + i * (V * W) + v * W, acc[i][v]);
        } else {
            T* out = results->out + i * results->stride;
            const T* bias = results->bias;
#pragma GCC unroll 4
            for (int v = 0; v < V; ++v) {
                write_sums(acc[i][v], bias == nullptr ? nullptr : bias + v * W, results->count - v * W,
                           out + v * W);
            }
        }
    }
}

template <class T>
using MultiplyTile = void (*)(const float*, const float*, int64_t, int64_t, bool, float*,
                              const TileResults<T>*);

template <class T, int S, int... I>
static constexpr std::array<MultiplyTile<T>, sizeof...(I)> tile_products(std::integer_sequence<int, I...>) {
    return {multiply_tile<I + 1, S, T>...};
}

// By height - 1.
template <class T, int S>
static constexpr auto kMultiplyTile =
    tile_products<T, S>(std::make_integer_sequence<int, S == 1 ? TILE : PAIR_TILE>{});

template <class T>
static inline MultiplyTile<T> multiply_tile_of(int64_t height, bool pair) {
    if constexpr (PAIR_TILE > 0) {
        if (pair) return kMultiplyTile<T, 2>[height - 1];
    }
    return kMultiplyTile<T, 1>[height - 1];
}

}  // namespace kq::KQ_ISA
